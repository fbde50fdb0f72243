#pragma once

#include "kernels/base/thread_pool.h"
#include "kernels/ops.h"

namespace thermocline {

// Plain loops in float32 over dequantised weights: what every kernel is tested against, and the
// engine's own float reference. Rows run on the pool; each row's arithmetic is sequential.
class ReferenceOps final : public Ops {
 public:
  explicit ReferenceOps(ThreadPool& pool) : pool_(pool) {}

  bool is_batch_invariant() const override { return true; }

  Result<std::unique_ptr<Weight>> PrepareWeight(std::span<const WeightSource> parts) const override;
  void Embed(const BatchView& batch, const Weight& table, Tensor out,
             Stream& stream) const override;
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                  Stream& stream) const override;
  void RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y, Stream& stream) const override;
  void MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode, Stream& stream) const override;
  void AddBias(Tensor x, Tensor bias, Stream& stream) const override;
  void Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
            Stream& stream) const override;
  void Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
              Stream& stream) const override;
  void AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                const KvCacheView& kv, int layer, Stream& stream) const override;
  void PagedAttention(Tensor qkv, int num_heads, const BatchView& batch, const KvCacheView& kv,
                      const AttentionParams& params, Tensor out, Stream& stream) const override;
  void FoldEnergies(Tensor energies, Tensor heat, Stream& stream) const override;
  void TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                      std::span<MoveResult> results, Stream& stream) const override;
  void GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                       Stream& stream) const override;
  void DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws, TokenId* tokens,
                  Stream& stream) const override;

 private:
  ThreadPool& pool_;
};

}  // namespace thermocline
