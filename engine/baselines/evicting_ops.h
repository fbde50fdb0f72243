#pragma once

#include <memory>
#include <span>

#include "engine/baselines/evictor.h"
#include "kernels/base/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"

namespace thermocline {

// A device's operations, of which attention is an evictor's: what a Transformer is loaded with, so
// that it runs under a baseline without knowing.
class EvictingOps final : public Ops {
 public:
  // kUnimplemented unless the host may read the device's memory. `device` outlives it.
  static Result<std::unique_ptr<EvictingOps>> Create(Device& device,
                                                     const Evictor::Options& options,
                                                     const KvLayout& layout);

  Evictor& evictor() const { return *evictor_; }

  bool is_batch_invariant() const override;
  int max_moves_at_once() const override;
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
  void FinishQkv(Tensor qkv, const QkvParams& params, const BatchView& batch, const KvCacheView& kv,
                 Stream& stream) const override;
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
  EvictingOps(const Ops& ops, std::unique_ptr<Evictor> evictor);

  const Ops& ops_;
  std::unique_ptr<Evictor> evictor_;
};

}  // namespace thermocline
