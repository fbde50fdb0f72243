#include "engine/calibration_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"
#include "scheduler/tier_policy.h"

namespace thermocline {
namespace {

uint32_t LargestUnits(const std::array<uint32_t, kNumTiers>& page_bytes) {
  return static_cast<uint32_t>(*std::max_element(page_bytes.begin(), page_bytes.end()) /
                               kArenaUnitBytes);
}

void ToLogProbabilities(std::span<float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) {
    sum += static_cast<double>(std::exp(logit - max));
  }
  const auto shift = static_cast<float>(static_cast<double>(max) + std::log(sum));
  for (float& logit : logits) {
    logit -= shift;
  }
}

}  // namespace

Result<std::unique_ptr<CalibrationPass>> CalibrationPass::Create(Transformer& model, Device& device,
                                                                 const KvLayout& layout,
                                                                 KvFormats formats, int num_pages) {
  const std::array<uint32_t, kNumTiers> page_bytes = PageBytes(layout, formats);
  // A hot place and one in the tier for each page.
  const uint64_t bytes =
      2 * static_cast<uint64_t>(num_pages) * LargestUnits(page_bytes) * kArenaUnitBytes;
  Result<KvCache> cache = KvCache::Create(device, layout, std::move(formats), bytes);
  if (!cache.ok()) {
    return cache.status();
  }
  return std::unique_ptr<CalibrationPass>(
      new CalibrationPass(model, device, *std::move(cache), page_bytes, num_pages));
}

CalibrationPass::CalibrationPass(Transformer& model, Device& device, KvCache cache,
                                 const std::array<uint32_t, kNumTiers>& page_bytes, int num_pages)
    : model_(model),
      device_(device),
      stream_(device.NewStream()),
      cache_(std::move(cache)),
      page_units_(LargestUnits(page_bytes)) {
  for (int i = 0; i < num_pages; ++i) {
    page_map_.push_back(Place(Tier::kHot, i));
    page_ids_.push_back(static_cast<PageId>(i));
  }
}

PageEntry CalibrationPass::Place(Tier tier, int page) const {
  return {tier, (2 * static_cast<uint32_t>(page) + (tier == Tier::kHot ? 0 : 1)) * page_units_};
}

Status CalibrationPass::Cool(int page, Tier tier) {
  const PageMove move{.page = static_cast<PageId>(page),
                      .from = page_map_[static_cast<size_t>(page)],
                      .to = Place(tier, page),
                      .first_position = page * cache_.layout().page_tokens};
  MoveResult result;
  device_.ops().TranscodePages(std::span(&move, 1), cache_.view(page_map_), std::span(&result, 1),
                               *stream_);
  RETURN_IF_ERROR(stream_->Sync());
  if (result.outcome != MoveResult::Outcome::kOk) {
    return Internal("page {} of the calibration text cannot be coded", page);
  }
  page_map_[static_cast<size_t>(page)] = move.to;
  return {};
}

Result<std::vector<float>> CalibrationPass::ReadPage(std::span<const TokenId> tokens, int page,
                                                     Tier tier, std::span<float> energy) {
  const int page_tokens = cache_.layout().page_tokens;
  const int window_pages = kWindowTokens / page_tokens;
  if (const int oldest = page - window_pages - 1; oldest >= 1 && tier != Tier::kHot) {
    RETURN_IF_ERROR(Cool(oldest, tier));
  }
  std::vector<int> layers(static_cast<size_t>(cache_.layout().num_layers));
  std::iota(layers.begin(), layers.end(), 0);
  std::vector<float> log_probabilities;
  const int chunk = std::min(page_tokens, model_.max_tokens());
  for (int first = 0; first < page_tokens; first += chunk) {
    const int count = std::min(chunk, page_tokens - first);
    const int begin = page * page_tokens + first;
    std::vector<int32_t> positions;
    std::vector<int32_t> rows;
    for (int i = 0; i < count; ++i) {
      positions.push_back(begin + i);
      if ((first + i) % kStride == 0) {
        rows.push_back(i);
      }
    }
    const std::vector<int32_t> starts = {0, count};
    const std::vector<int32_t> page_starts = {0, page + 1};
    const BatchView batch{.num_tokens = count,
                          .num_sequences = 1,
                          .sequence_starts = starts.data(),
                          .positions = positions.data(),
                          .page_starts = page_starts.data(),
                          .page_ids = page_ids_.data()};
    model_.Forward(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), batch,
                   cache_.view(page_map_), *stream_,
                   {.layers = energy.empty() ? std::span<const int>() : layers, .energy = energy});
    if (!rows.empty()) {
      const Tensor logits = model_.ComputeLogits(rows, *stream_);
      RETURN_IF_ERROR(stream_->Sync());
      log_probabilities.insert(log_probabilities.end(), logits.f32(),
                               logits.f32() + logits.num_elements());
    }
  }
  const auto width = static_cast<size_t>(model_.config().vocab_size);
  for (size_t row = 0; row < log_probabilities.size(); row += width) {
    ToLogProbabilities(std::span(log_probabilities).subspan(row, width));
  }
  return log_probabilities;
}

std::vector<float> CalibrationPass::MeanKeys(int num_pages) const {
  const KvLayout& layout = cache_.layout();
  const auto dim = static_cast<size_t>(layout.head_dim);
  std::vector<float> k(static_cast<size_t>(layout.page_tokens) * dim);
  std::vector<float> v(k.size());
  std::vector<float> means;
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    for (int head = 0; head < layout.num_kv_heads; ++head) {
      std::vector<double> sums(dim, 0.0);
      for (int page = 1; page < num_pages; ++page) {
        DecodeBlock(Codec::kNative, layout,
                    cache_.view(page_map_).block(static_cast<PageId>(page), layer, head), k.data(),
                    v.data());
        AddKeyBias(cache_.view(page_map_), layer, head, page * layout.page_tokens, -1, k.data());
        for (size_t i = 0; i < k.size(); ++i) {
          sums[i % dim] += static_cast<double>(k[i]);
        }
      }
      for (const double sum : sums) {
        means.push_back(static_cast<float>(sum / (layout.page_tokens * (num_pages - 1))));
      }
    }
  }
  return means;
}

}  // namespace thermocline
