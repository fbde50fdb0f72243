#pragma once

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/isa_level.h"
#include "kernels/cpu/isa/isa_table.h"
#include "kernels/cpu/weight_slabs.h"
#include "kernels/ops.h"

namespace thermocline {

// Ops on the host's cores. Weights are 16-row panels. Activations are quantised to 15 bits by
// blocks of 32 where the weight is quantised. Attention dequantises one page at a time for a tile
// of query rows; its products are int16 with AVX-512 VNNI and float32 otherwise. Everything runs
// before a call returns. Every operation computes a row in an order that depends on that row alone,
// matrix products included.
class CpuOps final : public Ops {
 public:
  CpuOps(IsaLevel isa, ThreadPool& pool);

  bool is_batch_invariant() const override { return true; }

  Result<std::unique_ptr<Weight>> PrepareWeight(std::span<const WeightSource> parts) const override;
  std::unique_ptr<StepData> NewStepData(const StepLimits& limits,
                                        const KvLayout& layout) const override;
  void LoadStep(const BatchView& batch, const KvCacheView& kv, Stream& stream) const override;
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
  // Calls body(row) for each row, on the pool when there are enough to share.
  template <typename Body>
  void ForRows(int64_t num_rows, int64_t row_elements, Body body) const;

  const IsaTable& isa_;
  ThreadPool& pool_;
  mutable WeightSlabs slabs_;
};

}  // namespace thermocline
