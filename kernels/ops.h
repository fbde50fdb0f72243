#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "kernels/core/rope.h"
#include "kernels/device.h"
#include "kernels/page_format.h"
#include "kernels/quant/weight_blocks.h"
#include "kernels/tensor.h"

namespace thermocline {

// A matrix in the form that one Ops multiplies fastest. Made once at load by Ops::PrepareWeight and
// only ever handed back to the same Ops.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;  // outputs
  virtual int64_t cols() const = 0;  // inputs
  virtual size_t num_bytes() const = 0;
};

// The sequences of one step, flat. Arrays are CSR: sequence i owns tokens
// [sequence_starts[i], sequence_starts[i+1]) and pages [page_starts[i], page_starts[i+1]).
// A sequence's tokens are consecutive positions; its page table covers all of them.
struct BatchView {
  int num_tokens = 0;
  int num_sequences = 0;
  const int32_t* sequence_starts = nullptr;  // [num_sequences + 1]
  const int32_t* positions = nullptr;        // [num_tokens], position in its own sequence
  const int32_t* page_starts = nullptr;      // [num_sequences + 1]
  const PageId* page_ids = nullptr;          // [page_starts[num_sequences]]
};

enum class MatMulMode { kStore, kAdd };  // y = x w^T, or y += x w^T (the residual)
enum class Activation { kSilu, kGeluTanh };

// To the basis that pages are kept in, or from it: kernels/core/hadamard.h.
enum class Rotation { kForward, kBack };

// The last tokens of a sequence in a batch whose attention page energies tell of.
inline constexpr int kObservedTokens = 64;

struct AttentionParams {
  int layer = 0;
  float scale = 0;  // of the scores before the softmax, usually 1/sqrt(head_dim)
  // Unless null, [page_starts[num_sequences], num_kv_heads] on the host gets each page's energy:
  // mass x largest weight, the greatest over the group's heads and the last kObservedTokens tokens
  // of its sequence, from the (largest score, sum) that the loop has of each page anyway.
  float* page_energy = nullptr;
};

// The closed list of transformer operations of one kind of device. All tensors are on that device,
// contiguous and float32 unless said otherwise. Work is enqueued on the stream; errors surface at
// Stream::Sync. Wrong shapes are bugs (CHECK): loaders have validated them.
//
// Every result for a row depends on that row's inputs alone, bit for bit, never on which other rows
// are in the batch or how a prompt was cut into chunks.
//
// Thread-safe between calls on different streams; one stream belongs to one thread.
class Ops {
 public:
  virtual ~Ops() = default;

  // Stacks `parts` along the rows (Q over K over V, gate over up): all have the same cols. Copies
  // what it needs, so the sources may go. kUnimplemented for a type it cannot multiply.
  virtual Result<std::unique_ptr<Weight>> PrepareWeight(
      std::span<const WeightSource> parts) const = 0;

  // out [num_tokens, table.cols()] = rows of `table` chosen by tokens (each within table.rows()),
  // equal to Dequantize of their source bit for bit.
  virtual void Embed(std::span<const TokenId> tokens, const Weight& table, Tensor out,
                     Stream& stream) const = 0;

  // x, y [num_tokens, dim]; gain [dim]. y may be x.
  virtual void RmsNorm(Tensor x, std::span<const float> gain, float epsilon, Tensor y,
                       Stream& stream) const = 0;

  // x [num_tokens, w.cols()], y [num_tokens, w.rows()].
  virtual void MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode,
                      Stream& stream) const = 0;

  // x [num_tokens, dim] += bias [dim].
  virtual void AddBias(Tensor x, std::span<const float> bias, Stream& stream) const = 0;

  // In place on the first `num_heads` heads of each row of qkv [num_tokens, row_width], each of
  // head_dim; cos_sin [num_tokens, head_dim / 2, 2] holds the angles of each token's position.
  virtual void Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                    Stream& stream) const = 0;

  // In place on the first `num_heads` heads of each row of x [num_tokens, row_width]; signs
  // [head_dim], +1 or -1.
  virtual void Rotate(Tensor x, int num_heads, std::span<const float> signs, Rotation rotation,
                      Stream& stream) const = 0;

  // Writes K and V of the batch's tokens into their pages, which must be hot. K starts at column
  // k_column of qkv [num_tokens, row_width], V at v_column; each is [num_kv_heads, head_dim].
  virtual void AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                        const KvCacheView& kv, int layer, Stream& stream) const = 0;

  // Causal attention of each token over its sequence's pages, its own position included. Q is the
  // first num_heads * head_dim columns of qkv [num_tokens, row_width]; num_heads is a multiple of
  // the layout's num_kv_heads. out [num_tokens, num_heads * head_dim].
  virtual void PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                              const KvCacheView& kv, const AttentionParams& params, Tensor out,
                              Stream& stream) const = 0;

  // Copies each page from one place to the other, in the codec that each layer has there; the page
  // map is not read. Fills results [moves.size()]. On the CPU it runs on the calling thread alone,
  // beside what other streams do.
  virtual void TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                              std::span<MoveResult> results, Stream& stream) const = 0;

  // gate_up [num_tokens, 2 * dim], out [num_tokens, dim] = activation(gate) * up.
  virtual void GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                               Stream& stream) const = 0;
};

}  // namespace thermocline
