#include "tests/testing/delayed_ops.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

DelayedStream& Delayed(Stream& stream) { return dynamic_cast<DelayedStream&>(stream); }

template <typename T>
std::vector<T> CopyOf(const T* list, size_t count) {
  return list == nullptr ? std::vector<T>() : std::vector<T>(list, list + count);
}

}  // namespace

// A batch and the pages that it reads, with views of the inner operations.
struct DelayedOps::Lists {
  std::vector<int32_t> sequence_starts, positions, page_starts;
  std::vector<PageId> page_ids;
  std::vector<TokenId> tokens;
  std::vector<PageEntry> page_map;
  std::vector<LayerFormat> formats;
  std::vector<uint8_t> bias_layers;
  BatchView batch;
  KvCacheView kv;
};

// The inner operations' own, and the lists that it was filled with.
class DelayedOps::LoadedStep : public StepData {
 public:
  explicit LoadedStep(std::unique_ptr<StepData> inner) : inner_(std::move(inner)) {}

  StepData* inner() const { return inner_.get(); }
  std::shared_ptr<const Lists> lists;

 private:
  std::unique_ptr<StepData> inner_;
};

// What an operation was given, or, for a batch that was loaded, what is loaded when it runs: an
// operation that was recorded and is replayed sees the step that it is replayed in.
class DelayedOps::ListsAtRun {
 public:
  explicit ListsAtRun(std::shared_ptr<const Lists> given) : given_(std::move(given)) {}
  explicit ListsAtRun(const LoadedStep& step) : step_(&step) {}
  const Lists* operator->() const { return step_ != nullptr ? step_->lists.get() : given_.get(); }

 private:
  std::shared_ptr<const Lists> given_;
  const LoadedStep* step_ = nullptr;
};

Tensor DelayedOps::Open(Tensor tensor) const {
  auto* data = window_.Open(static_cast<std::byte*>(tensor.data()));
  switch (tensor.rank()) {
    case 1:
      return {data, tensor.dtype(), {tensor.dim(0)}};
    case 2:
      return {data, tensor.dtype(), {tensor.dim(0), tensor.dim(1)}};
    case 3:
      return {data, tensor.dtype(), {tensor.dim(0), tensor.dim(1), tensor.dim(2)}};
    default:
      CHECK(tensor.rank() == 0 && data == nullptr);
      return tensor;
  }
}

std::shared_ptr<DelayedOps::Lists> DelayedOps::CopyLists(const BatchView& batch,
                                                         const KvCacheView& kv) const {
  auto lists = std::make_shared<Lists>();
  const auto num_tokens = static_cast<size_t>(batch.num_tokens);
  const auto num_sequences = static_cast<size_t>(batch.num_sequences);
  lists->sequence_starts = CopyOf(batch.sequence_starts, num_sequences + 1);
  lists->positions = CopyOf(batch.positions, num_tokens);
  lists->page_starts = CopyOf(batch.page_starts, num_sequences + 1);
  const size_t num_pages =
      lists->page_starts.empty() ? 0 : static_cast<size_t>(lists->page_starts.back());
  lists->page_ids = CopyOf(batch.page_ids, num_pages);
  lists->tokens = CopyOf(batch.tokens, num_tokens);
  lists->batch = {.num_tokens = batch.num_tokens,
                  .num_sequences = batch.num_sequences,
                  .sequence_starts = lists->sequence_starts.data(),
                  .positions = lists->positions.data(),
                  .page_starts = lists->page_starts.data(),
                  .page_ids = lists->page_ids.data(),
                  .tokens = lists->tokens.data()};
  if (kv.arena == nullptr) {
    return lists;
  }
  const auto num_layers = static_cast<size_t>(kv.layout.num_layers);
  const auto last = std::max_element(lists->page_ids.begin(), lists->page_ids.end());
  lists->page_map = CopyOf(kv.page_map, last == lists->page_ids.end() ? 0 : *last + 1);
  lists->formats = CopyOf(kv.formats, num_layers * kNumTiers);
  lists->bias_layers = CopyOf(kv.key_bias.layers, num_layers);
  lists->kv = kv;
  lists->kv.arena = window_.Open(kv.arena);
  lists->kv.page_map = lists->page_map.data();
  lists->kv.formats = lists->formats.data();
  lists->kv.mean_keys = window_.Open(kv.mean_keys);
  lists->kv.query_factors = window_.Open(kv.query_factors);
  KeyBiasView& bias = lists->kv.key_bias;
  bias.layers = lists->bias_layers.data();
  bias.biases = window_.Open(bias.biases);
  bias.elements = window_.Open(bias.elements);
  bias.page_angles = window_.Open(bias.page_angles);
  bias.token_angles = window_.Open(bias.token_angles);
  bias.signs = window_.Open(bias.signs);
  return lists;
}

DelayedOps::ListsAtRun DelayedOps::ListsOf(const BatchView& batch, const KvCacheView& kv) const {
  if (batch.on_device == nullptr) {
    return ListsAtRun(CopyLists(batch, kv));
  }
  auto& step = dynamic_cast<LoadedStep&>(*batch.on_device);
  CHECK(step.lists != nullptr && step.lists->batch.num_tokens == batch.num_tokens);
  return ListsAtRun(step);
}

Result<std::unique_ptr<Weight>> DelayedOps::PrepareWeight(
    std::span<const WeightSource> parts) const {
  return ops_.PrepareWeight(parts);
}

std::unique_ptr<StepData> DelayedOps::NewStepData(const StepLimits& limits,
                                                  const KvLayout& layout) const {
  return std::make_unique<LoadedStep>(ops_.NewStepData(limits, layout));
}

void DelayedOps::LoadStep(const BatchView& batch, const KvCacheView& kv, Stream& stream) const {
  auto& step = dynamic_cast<LoadedStep&>(*batch.on_device);
  const std::shared_ptr<Lists> lists = CopyLists(batch, kv);
  lists->batch.on_device = step.inner();
  step.lists = lists;
  Delayed(stream).Enqueue(
      [=, this](Stream& inner) { ops_.LoadStep(lists->batch, lists->kv, inner); });
}

void DelayedOps::Embed(const BatchView& batch, const Weight& table, Tensor out,
                       Stream& stream) const {
  const auto lists = ListsOf(batch, {});
  Delayed(stream).Enqueue([=, this, &table, rows = Open(out)](Stream& inner) {
    ops_.Embed(lists->batch, table, rows, inner);
  });
}

void DelayedOps::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                            Stream& stream) const {
  Delayed(stream).Enqueue(
      [this, from = Open(x), list = CopyOf(rows.data(), rows.size()),
       to = Open(out)](Stream& inner) { ops_.GatherRows(from, list, to, inner); });
}

void DelayedOps::RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y, Stream& stream) const {
  Delayed(stream).Enqueue([this, epsilon, from = Open(x), gains = Open(gain), to = Open(y)](
                              Stream& inner) { ops_.RmsNorm(from, gains, epsilon, to, inner); });
}

void DelayedOps::MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode,
                        Stream& stream) const {
  Delayed(stream).Enqueue([this, &w, mode, from = Open(x), to = Open(y)](Stream& inner) {
    ops_.MatMul(from, w, to, mode, inner);
  });
}

void DelayedOps::AddBias(Tensor x, Tensor bias, Stream& stream) const {
  Delayed(stream).Enqueue([this, rows = Open(x), added = Open(bias)](Stream& inner) {
    ops_.AddBias(rows, added, inner);
  });
}

void DelayedOps::Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
                      Stream& stream) const {
  Delayed(stream).Enqueue([=, this, rows = Open(qkv), angles = Open(cos_sin)](Stream& inner) {
    ops_.Rope(rows, num_heads, head_dim, angles, style, inner);
  });
}

void DelayedOps::Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
                        Stream& stream) const {
  Delayed(stream).Enqueue([=, this, rows = Open(x), opened = Open(signs)](Stream& inner) {
    ops_.Rotate(rows, num_heads, opened, rotation, inner);
  });
}

void DelayedOps::AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                          const KvCacheView& kv, int layer, Stream& stream) const {
  const auto lists = ListsOf(batch, kv);
  Delayed(stream).Enqueue([=, this, rows = Open(qkv)](Stream& inner) {
    ops_.AppendKv(rows, k_column, v_column, lists->batch, lists->kv, layer, inner);
  });
}

void DelayedOps::PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                                const KvCacheView& kv, const AttentionParams& params, Tensor out,
                                Stream& stream) const {
  const auto lists = ListsOf(batch, kv);
  AttentionParams opened = params;
  opened.page_energy = window_.Open(params.page_energy);
  Delayed(stream).Enqueue([=, this, rows = Open(qkv), to = Open(out)](Stream& inner) {
    ops_.PagedAttention(rows, num_heads, lists->batch, lists->kv, opened, to, inner);
  });
}

void DelayedOps::FoldEnergies(Tensor energies, Tensor heat, Stream& stream) const {
  Delayed(stream).Enqueue([this, from = Open(energies), to = Open(heat)](Stream& inner) {
    ops_.FoldEnergies(from, to, inner);
  });
}

void DelayedOps::TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                                std::span<MoveResult> results, Stream& stream) const {
  CHECK(results.size() == moves.size() && !window_.Holds(results.data()));
  CHECK(moves.size() <= static_cast<size_t>(max_moves_at_once()));
  const auto lists = CopyLists({}, kv);
  Delayed(stream).Enqueue([=, this, list = CopyOf(moves.data(), moves.size())](Stream& inner) {
    const auto step = static_cast<size_t>(ops_.max_moves_at_once());
    for (size_t i = 0; i < list.size(); i += step) {
      const size_t count = std::min(step, list.size() - i);
      ops_.TranscodePages(std::span(list).subspan(i, count), lists->kv, results.subspan(i, count),
                          inner);
    }
  });
}

void DelayedOps::GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                                 Stream& stream) const {
  Delayed(stream).Enqueue([=, this, from = Open(gate_up), to = Open(out)](Stream& inner) {
    ops_.GatedActivation(from, activation, to, inner);
  });
}

void DelayedOps::DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws,
                            TokenId* tokens, Stream& stream) const {
  CHECK(!window_.Holds(tokens));
  Delayed(stream).Enqueue(
      [=, this, from = Open(logits), list = CopyOf(draws.data(), draws.size())](Stream& inner) {
        ops_.DrawTokens(from, vocab_size, list, tokens, inner);
      });
}

}  // namespace thermocline
