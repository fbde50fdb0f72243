#pragma once

#include "kernels/ops.h"
#include "tests/testing/delayed_stream.h"
#include "tests/testing/device_window.h"

namespace thermocline {

// Another device's operations on a DelayedStream, over memory of a DeviceWindow. Lists are copied
// when an operation is enqueued, so that a caller which counts on their being read later, or lends
// memory of the wrong kind, is found out.
class DelayedOps final : public Ops {
 public:
  // Both outlive it.
  DelayedOps(const Ops& ops, const DeviceWindow& window) : ops_(ops), window_(window) {}

  bool is_batch_invariant() const override { return ops_.is_batch_invariant(); }
  int max_moves_at_once() const override { return 3; }

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
  struct Lists;
  class LoadedStep;
  class ListsAtRun;

  Tensor Open(Tensor tensor) const;
  ListsAtRun ListsOf(const BatchView& batch, const KvCacheView& kv) const;
  std::shared_ptr<Lists> CopyLists(const BatchView& batch, const KvCacheView& kv) const;

  const Ops& ops_;
  const DeviceWindow& window_;
};

}  // namespace thermocline
