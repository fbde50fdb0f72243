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

// Where the (layer, KV head) block of a page of this tier begins in it.
size_t OffsetInPage(const KvCacheView& kv, Tier tier, int layer, int kv_head) {
  const LayerFormat& format = kv.format(layer, tier);
  return format.layer_offset + static_cast<size_t>(kv_head) * format.head_stride;
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
      all_layers_(static_cast<size_t>(cache_.layout().num_layers)),
      host_page_(device),
      host_coded_page_(device),
      host_logits_(device) {
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

Status CalibrationPass::Restart(KvFormats formats) {
  cache_.SetFormats(std::move(formats), *stream_);
  RETURN_IF_ERROR(stream_->Sync());
  for (size_t page = 0; page < page_map_.size(); ++page) {
    page_map_[page] = Place(Tier::kHot, static_cast<int>(page));
  }
  return {};
}

Result<const std::byte*> CalibrationPass::ReadPage(PageEntry place, HostCopy& copy) {
  // A place is as large as a hot page.
  Result<const std::byte*> bytes =
      copy.Read(cache_.view(page_map_).arena + place.offset(),
                size_t{PlaceUnits(cache_.layout())} * kArenaUnitBytes, *stream_);
  RETURN_IF_ERROR(stream_->Sync());
  return bytes;
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
                        .page_ids = page_ids_.data(),
                        .tokens = tokens.data() + begin};
  Transformer::WatchedLayers watched;
  if (!energy.empty()) {
    RETURN_IF_ERROR(Reserve(device_, energy.size_bytes(), Placement::kDevice, energy_));
    watched = {
        .layers = all_layers_,
        .energy = Tensor(static_cast<float*>(static_cast<void*>(energy_.data())),
                         {cache_.layout().num_layers, page + 1, cache_.layout().num_kv_heads})};
  }
  model_.Forward(batch, cache_.view(page_map_), *stream_, watched);
  if (!energy.empty()) {
    stream_->Copy(std::as_writable_bytes(energy).data(), energy_.data(), energy.size_bytes());
  }
  RETURN_IF_ERROR(stream_->Sync());
  if (rows.empty()) {
    return std::vector<float>();
  }
  const Tensor logits = model_.ComputeLogits(rows, *stream_);
  const auto num_logits = static_cast<size_t>(logits.num_elements());
  const Result<const float*> read = host_logits_.Read(logits.f32(), num_logits, *stream_);
  RETURN_IF_ERROR(stream_->Sync());
  if (!read.ok()) {
    return read.status();
  }
  std::vector<float> log_probabilities(*read, *read + num_logits);
  const auto width = static_cast<size_t>(model_.config().vocab_size);
  for (size_t row = 0; row < log_probabilities.size(); row += width) {
    ToLogProbabilities(std::span(log_probabilities).subspan(row, width));
  }
  return log_probabilities;
}

Result<std::vector<float>> CalibrationPass::MeanKeys(int num_pages) {
  const KvCacheView kv = cache_.host_view(page_map_);
  const KvLayout& layout = kv.layout;
  const auto dim = static_cast<size_t>(layout.head_dim);
  const auto num_heads = static_cast<size_t>(layout.num_layers * layout.num_kv_heads);
  std::vector<float> k(static_cast<size_t>(layout.page_tokens) * dim);
  std::vector<float> v(k.size());
  std::vector<double> sums(num_heads * dim, 0.0);
  for (int page = 1; page < num_pages; ++page) {
    const Result<const std::byte*> bytes =
        ReadPage(page_map_[static_cast<size_t>(page)], host_page_);
    if (!bytes.ok()) {
      return bytes.status();
    }
    for (size_t i = 0; i < num_heads; ++i) {
      const int layer = static_cast<int>(i) / layout.num_kv_heads;
      const int head = static_cast<int>(i) % layout.num_kv_heads;
      DecodeBlock(Codec::kNative, layout, *bytes + OffsetInPage(kv, Tier::kHot, layer, head),
                  k.data(), v.data());
      AddKeyBias(kv, layer, head, page * layout.page_tokens, -1, k.data());
      for (size_t j = 0; j < k.size(); ++j) {
        sums[i * dim + j % dim] += static_cast<double>(k[j]);
      }
    }
  }
  std::vector<float> means;
  for (const double sum : sums) {
    means.push_back(static_cast<float>(sum / (layout.page_tokens * (num_pages - 1))));
  }
  return means;
}

Status CalibrationPass::AddKeyLosses(int page, std::span<const float> moments,
                                     std::vector<double>& losses) {
  RETURN_IF_ERROR(Code(page, Tier::kCold));
  const Result<const std::byte*> hot = ReadPage(page_map_[static_cast<size_t>(page)], host_page_);
  if (!hot.ok()) {
    return hot.status();
  }
  const Result<const std::byte*> cold = ReadPage(Place(Tier::kCold, page), host_coded_page_);
  if (!cold.ok()) {
    return cold.status();
  }
  const KvCacheView kv = cache_.host_view(page_map_);
  const KvLayout& layout = kv.layout;
  const auto dim = static_cast<size_t>(layout.head_dim);
  const auto num_values = static_cast<size_t>(layout.page_tokens) * dim;
  std::vector<float> k(num_values);
  std::vector<float> coded(num_values);
  std::vector<float> v(num_values);
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    double worst = 0;
    for (int head = 0; head < layout.num_kv_heads; ++head) {
      DecodeBlock(Codec::kNative, layout, *hot + OffsetInPage(kv, Tier::kHot, layer, head),
                  k.data(), v.data());
      AddKeyBias(kv, layer, head, page * layout.page_tokens, -1, k.data());
      DecodeBlock(kv.format(layer, Tier::kCold).codec, layout,
                  *cold + OffsetInPage(kv, Tier::kCold, layer, head), coded.data(), v.data());
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
