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
#include "kernels/sampling/row_draw.h"
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

// What a device keeps of the step that it is at: Ops::LoadStep.
class StepData {
 public:
  virtual ~StepData() = default;
};

// The most that steps of one model hold, and the shape of its attention.
struct StepLimits {
  int num_heads = 0;  // of queries
  int max_tokens = 0;
};

// The sequences of one step, flat, in host memory. Arrays are CSR: sequence i owns tokens
// [sequence_starts[i], sequence_starts[i+1]) and pages [page_starts[i], page_starts[i+1]).
// A sequence's tokens are consecutive positions; its page table covers all of them.
struct BatchView {
  int num_tokens = 0;
  int num_sequences = 0;
  const int32_t* sequence_starts = nullptr;  // [num_sequences + 1]
  const int32_t* positions = nullptr;        // [num_tokens], position in its own sequence
  const int32_t* page_starts = nullptr;      // [num_sequences + 1]
  const PageId* page_ids = nullptr;          // [page_starts[num_sequences]]
  const TokenId* tokens = nullptr;           // [num_tokens]; Embed alone reads them
  StepData* on_device = nullptr;             // what LoadStep has filled; null: not loaded
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
  // Unless null, [page_starts[num_sequences], num_kv_heads] on the device gets each page's energy:
  // mass x largest weight, the greatest over the group's heads and the last kObservedTokens tokens
  // of its sequence, from the (largest score, sum) that the loop has of each page anyway.
  float* page_energy = nullptr;
};

// From the projections of a step's tokens to queries and to keys and values in the cache.
struct QkvParams {
  int layer = 0;
  int num_heads = 0;  // of queries
  Tensor bias;        // [row_width], or empty
  Tensor cos_sin;     // [num_tokens, rope_dim / 2, 2]
  RopeStyle style = RopeStyle::kInterleaved;
  Tensor signs;  // [head_dim]
};

// The closed list of transformer operations of one kind of device. All tensors are in that device's
// memory, contiguous and float32 unless said otherwise, and so are a KvCacheView's arena, mean
// keys, query factors and the numbers of its key bias. Lists are in host memory: a batch's arrays,
// page map and formats, rows, draws and moves; they are read before the call returns. What is for
// the host (`tokens`, `results`) is in host memory too, and there after Stream::Sync.
//
// Work is enqueued on the stream; errors surface at Stream::Sync. Wrong shapes are bugs (CHECK):
// loaders have validated them.
//
// Normalisation, rotation, page moves and attention of a row depend on that row's inputs alone, bit
// for bit, and where is_batch_invariant() holds every operation does: never on which other rows are
// in the batch or how a prompt was cut into chunks.
//
// Thread-safe between calls on different streams; one stream belongs to one thread.
class Ops {
 public:
  virtual ~Ops() = default;

  // Whether a request's tokens are the same whatever runs beside it.
  virtual bool is_batch_invariant() const = 0;
  // How many pages TranscodePages moves as well at once as one by one.
  virtual int max_moves_at_once() const { return 1; }

  // Stacks `parts` along the rows (Q over K over V, gate over up): all have the same cols. Copies
  // what it needs, so the sources may go. kUnimplemented for a type it cannot multiply.
  virtual Result<std::unique_ptr<Weight>> PrepareWeight(
      std::span<const WeightSource> parts) const = 0;

  // Room for the lists of a step, for LoadStep. Null: this device keeps nothing.
  virtual std::unique_ptr<StepData> NewStepData(const StepLimits& /*limits*/,
                                                const KvLayout& /*layout*/) const {
    return nullptr;
  }
  // Prepares batch.on_device for the operations of a step on this batch and these pages: once a
  // step, before the first of them. Operations of a batch whose on_device is null prepare the same
  // for themselves, each time. The stream has been synced since the step before.
  virtual void LoadStep(const BatchView& /*batch*/, const KvCacheView& /*kv*/,
                        Stream& /*stream*/) const {}

  // out [num_tokens, table.cols()] = rows of `table` chosen by the batch's tokens (each within
  // table.rows()), equal to Dequantize of their source bit for bit.
  virtual void Embed(const BatchView& batch, const Weight& table, Tensor out,
                     Stream& stream) const = 0;

  // out [rows.size(), dim] = those rows of x [num_tokens, dim].
  virtual void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                          Stream& stream) const = 0;

  // x, y [num_tokens, dim]; gain [dim]. y may be x.
  virtual void RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y, Stream& stream) const = 0;

  // x [num_tokens, w.cols()], y [num_tokens, w.rows()].
  virtual void MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode,
                      Stream& stream) const = 0;

  // x [num_tokens, dim] += bias [dim].
  virtual void AddBias(Tensor x, Tensor bias, Stream& stream) const = 0;

  // In place on the first `num_heads` heads of each row of qkv [num_tokens, row_width], each of
  // head_dim; cos_sin [num_tokens, head_dim / 2, 2] holds the angles of each token's position.
  virtual void Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                    Stream& stream) const = 0;

  // In place on the first `num_heads` heads of each row of x [num_tokens, row_width]; signs
  // [head_dim], +1 or -1.
  virtual void Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
                      Stream& stream) const = 0;

  // Writes K and V of the batch's tokens into their pages, which must be hot. K starts at column
  // k_column of qkv [num_tokens, row_width], V at v_column; each is [num_kv_heads, head_dim].
  virtual void AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                        const KvCacheView& kv, int layer, Stream& stream) const = 0;

  // AddBias, Rope of queries and keys, Rotate and AppendKv: qkv [num_tokens, row_width] holds
  // queries, keys and values, and its queries stay for PagedAttention.
  virtual void FinishQkv(Tensor qkv, const QkvParams& params, const BatchView& batch,
                         const KvCacheView& kv, Stream& stream) const;

  // Causal attention of each token over its sequence's pages, its own position included. Q is the
  // first num_heads * head_dim columns of qkv [num_tokens, row_width]; num_heads is a multiple of
  // the layout's num_kv_heads. out [num_tokens, num_heads * head_dim].
  virtual void PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                              const KvCacheView& kv, const AttentionParams& params, Tensor out,
                              Stream& stream) const = 0;

  // What pages are told by: energies [num_layers, num_pages, num_kv_heads], as PagedAttention left
  // them of some layers, -> heat [num_pages, 2], the greatest of a page and the mean.
  virtual void FoldEnergies(Tensor energies, Tensor heat, Stream& stream) const = 0;

  // Copies each page from one place to the other, in the codec that each layer has there; the page
  // map is not read. At most max_moves_at_once() moves; fills results [moves.size()]. On the CPU it
  // runs on the calling thread alone, beside what other streams do.
  virtual void TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                              std::span<MoveResult> results, Stream& stream) const = 0;

  // gate_up [num_tokens, 2 * dim], out [num_tokens, dim] = activation(gate) * up.
  virtual void GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                               Stream& stream) const = 0;

  // tokens [draws.size()]: what each draw takes from its row of logits [rows, at least vocab_size],
  // of which the first vocab_size count; -1 where they are not numbers or leave no token.
  virtual void DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws,
                          TokenId* tokens, Stream& stream) const = 0;
};

}  // namespace thermocline
