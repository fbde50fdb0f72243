#include "engine/baselines/evicting_ops.h"

#include <utility>

namespace thermocline {

Result<std::unique_ptr<EvictingOps>> EvictingOps::Create(Device& device,
                                                         const Evictor::Options& options,
                                                         const KvLayout& layout) {
  if (!device.IsHostMemory()) {
    return Unimplemented("a --kv-policy that evicts tokens needs --device cpu");
  }
  return std::unique_ptr<EvictingOps>(
      new EvictingOps(device.ops(), std::make_unique<Evictor>(options, layout)));
}

EvictingOps::EvictingOps(const Ops& ops, std::unique_ptr<Evictor> evictor)
    : ops_(ops), evictor_(std::move(evictor)) {}

void EvictingOps::PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                                 const KvCacheView& kv, const AttentionParams& params, Tensor out,
                                 Stream& stream) const {
  evictor_->Attend(ops_, qkv, num_heads, batch, kv, params, out, stream);
}

bool EvictingOps::is_batch_invariant() const { return ops_.is_batch_invariant(); }

int EvictingOps::max_moves_at_once() const { return ops_.max_moves_at_once(); }

Result<std::unique_ptr<Weight>> EvictingOps::PrepareWeight(
    std::span<const WeightSource> parts) const {
  return ops_.PrepareWeight(parts);
}

std::unique_ptr<StepData> EvictingOps::NewStepData(const StepLimits& limits,
                                                   const KvLayout& layout) const {
  return ops_.NewStepData(limits, layout);
}

void EvictingOps::LoadStep(const BatchView& batch, const KvCacheView& kv, Stream& stream) const {
  ops_.LoadStep(batch, kv, stream);
}

void EvictingOps::Embed(const BatchView& batch, const Weight& table, Tensor out,
                        Stream& stream) const {
  ops_.Embed(batch, table, out, stream);
}

void EvictingOps::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                             Stream& stream) const {
  ops_.GatherRows(x, rows, out, stream);
}

void EvictingOps::RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y, Stream& stream) const {
  ops_.RmsNorm(x, gain, epsilon, y, stream);
}

void EvictingOps::MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode,
                         Stream& stream) const {
  ops_.MatMul(x, w, y, mode, stream);
}

void EvictingOps::AddBias(Tensor x, Tensor bias, Stream& stream) const {
  ops_.AddBias(x, bias, stream);
}

void EvictingOps::Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                       Stream& stream) const {
  ops_.Rope(qkv, num_heads, head_dim, cos_sin, style, stream);
}

void EvictingOps::Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
                         Stream& stream) const {
  ops_.Rotate(x, num_heads, signs, rotation, stream);
}

void EvictingOps::AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                           const KvCacheView& kv, int layer, Stream& stream) const {
  ops_.AppendKv(qkv, k_column, v_column, batch, kv, layer, stream);
}

void EvictingOps::FinishQkv(Tensor qkv, const QkvParams& params, const BatchView& batch,
                            const KvCacheView& kv, Stream& stream) const {
  ops_.FinishQkv(qkv, params, batch, kv, stream);
}

void EvictingOps::FoldEnergies(Tensor energies, Tensor heat, Stream& stream) const {
  ops_.FoldEnergies(energies, heat, stream);
}

void EvictingOps::TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                                 std::span<MoveResult> results, Stream& stream) const {
  ops_.TranscodePages(moves, kv, results, stream);
}

void EvictingOps::GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                                  Stream& stream) const {
  ops_.GatedActivation(gate_up, activation, out, stream);
}

void EvictingOps::DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws,
                             TokenId* tokens, Stream& stream) const {
  ops_.DrawTokens(logits, vocab_size, draws, tokens, stream);
}

}  // namespace thermocline
