#include "engine/calibration/calibration_pass.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"
#include "scheduler/tier_policy.h"

namespace thermocline {
namespace {

// The units that a hot page takes, which is larger than a coded one.
uint32_t PlaceUnits(const KvLayout& layout) {
  const std::array<uint32_t, kNumTiers> bytes = PageBytes(layout, DefaultKvFormats(layout));
  return bytes[static_cast<size_t>(Tier::kHot)] / static_cast<uint32_t>(kArenaUnitBytes);
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

int CalibrationPass::FirstCooledPage(int page_tokens) { return kWindowTokens / page_tokens + 2; }

Result<std::unique_ptr<CalibrationPass>> CalibrationPass::Create(Transformer& model, Device& device,
                                                                 const KvLayout& layout,
                                                                 KvFormats formats, int num_pages) {
  // A hot place and a coded one for each page; memory that nobody writes to is never taken.
  const uint64_t bytes =
      2 * static_cast<uint64_t>(num_pages) * PlaceUnits(layout) * kArenaUnitBytes;
  Result<KvCache> cache = KvCache::Create(device, layout, std::move(formats), bytes);
  if (!cache.ok()) {
    return cache.status();
  }
  return std::unique_ptr<CalibrationPass>(
      new CalibrationPass(model, device, *std::move(cache), num_pages));
}

CalibrationPass::CalibrationPass(Transformer& model, Device& device, KvCache cache, int num_pages)
    : model_(model),
      device_(device),
      stream_(device.NewStream()),
      cache_(std::move(cache)),
      page_map_(static_cast<size_t>(num_pages)),
      page_ids_(static_cast<size_t>(num_pages)),
      all_layers_(static_cast<size_t>(cache_.layout().num_layers)) {
  std::iota(page_ids_.begin(), page_ids_.end(), PageId{0});
  std::iota(all_layers_.begin(), all_layers_.end(), 0);
  for (int page = 0; page < num_pages; ++page) {
    page_map_[static_cast<size_t>(page)] = Place(Tier::kHot, page);
  }
}

PageEntry CalibrationPass::Place(Tier tier, int page) const {
  const size_t place = static_cast<size_t>(page) + (tier == Tier::kHot ? 0 : page_map_.size());
  return {tier, static_cast<uint32_t>(place) * PlaceUnits(cache_.layout())};
}

void CalibrationPass::Restart(KvFormats formats) {
  cache_.SetFormats(std::move(formats));
  for (size_t page = 0; page < page_map_.size(); ++page) {
    page_map_[page] = Place(Tier::kHot, static_cast<int>(page));
  }
}

// Into the page's place in `tier`; the page map stays as it is.
Status CalibrationPass::Code(int page, Tier tier) {
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
  return {};
}

Status CalibrationPass::BeginPage(int page, Tier tier) {
  const int oldest = page - FirstCooledPage(cache_.layout().page_tokens) + 1;
  if (oldest >= 1 && tier != Tier::kHot) {
    RETURN_IF_ERROR(Code(oldest, tier));
    page_map_[static_cast<size_t>(oldest)] = Place(tier, oldest);
  }
  return {};
}

Result<std::vector<float>> CalibrationPass::ReadChunk(std::span<const TokenId> tokens, int page,
                                                      int first, int count,
                                                      std::span<float> energy) {
  const int begin = page * cache_.layout().page_tokens + first;
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
  model_.Forward(
      tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), batch,
      cache_.view(page_map_), *stream_,
      {.layers = energy.empty() ? std::span<const int>() : all_layers_, .energy = energy});
  RETURN_IF_ERROR(stream_->Sync());
  if (rows.empty()) {
    return std::vector<float>();
  }
  const Tensor logits = model_.ComputeLogits(rows, *stream_);
  RETURN_IF_ERROR(stream_->Sync());
  std::vector<float> log_probabilities(logits.f32(), logits.f32() + logits.num_elements());
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

Status CalibrationPass::AddKeyLosses(int page, std::span<const float> moments,
                                     std::vector<double>& losses) {
  RETURN_IF_ERROR(Code(page, Tier::kCold));
  const KvCacheView kv = cache_.view(page_map_);
  const KvLayout& layout = kv.layout;
  const auto dim = static_cast<size_t>(layout.head_dim);
  const auto num_values = static_cast<size_t>(layout.page_tokens) * dim;
  std::vector<float> k(num_values);
  std::vector<float> coded(num_values);
  std::vector<float> v(num_values);
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    double worst = 0;
    for (int head = 0; head < layout.num_kv_heads; ++head) {
      DecodeBlock(Codec::kNative, layout, kv.block(static_cast<PageId>(page), layer, head),
                  k.data(), v.data());
      AddKeyBias(kv, layer, head, page * layout.page_tokens, -1, k.data());
      DecodeBlock(kv.format(layer, Tier::kCold).codec, layout,
                  kv.block_at(Place(Tier::kCold, page), layer, head), coded.data(), v.data());
      const float* mean = kv.mean_key(layer, head);
      const auto block = static_cast<size_t>(layer * layout.num_kv_heads + head);
      const float* moment = moments.data() + block * dim * dim;
      double sum = 0;
      for (size_t first = 0; first < num_values; first += dim) {
        for (size_t i = 0; i < dim; ++i) {
          k[first + i] -= coded[first + i] + (mean == nullptr ? 0 : mean[i]);
        }
        for (size_t i = 0; i < dim; ++i) {
          float product = 0;
          for (size_t j = 0; j < dim; ++j) {
            product += moment[i * dim + j] * k[first + j];
          }
          sum += static_cast<double>(product * k[first + i]);
        }
      }
      worst = std::max(worst, sum / layout.page_tokens);
    }
    losses[static_cast<size_t>(layer)] += worst;
  }
  return {};
}

}  // namespace thermocline
