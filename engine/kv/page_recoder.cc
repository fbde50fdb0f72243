#include "engine/kv/page_recoder.h"

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace thermocline {

Result<std::unique_ptr<PageRecoder>> PageRecoder::Create(Device& device, const KvLayout& layout,
                                                         KvFormats from, KvFormats to) {
  const std::array<uint32_t, kNumTiers> from_bytes = PageBytes(layout, from);
  const std::array<uint32_t, kNumTiers> to_bytes = PageBytes(layout, to);
  const uint64_t bytes = 2 * uint64_t{from_bytes[static_cast<size_t>(Tier::kHot)]};
  Result<KvCache> from_cache = KvCache::Create(device, layout, std::move(from), bytes);
  if (!from_cache.ok()) {
    return from_cache.status();
  }
  Result<KvCache> to_cache = KvCache::Create(device, layout, std::move(to), bytes);
  if (!to_cache.ok()) {
    return to_cache.status();
  }
  return std::unique_ptr<PageRecoder>(
      new PageRecoder(device, *std::move(from_cache), *std::move(to_cache), from_bytes, to_bytes));
}

PageRecoder::PageRecoder(Device& device, KvCache from, KvCache to,
                         const std::array<uint32_t, kNumTiers>& from_bytes,
                         const std::array<uint32_t, kNumTiers>& to_bytes)
    : device_(device),
      stream_(device.NewStream(StreamPriority::kBackground)),
      from_(std::move(from)),
      to_(std::move(to)),
      from_bytes_(from_bytes),
      to_bytes_(to_bytes) {}

bool PageRecoder::Recode(StoredPage& page) {
  const auto tier = static_cast<size_t>(page.tier);
  if ((page.tier != Tier::kWarm && page.tier != Tier::kCold) ||
      page.bytes.size() != from_bytes_[tier]) {
    return false;
  }
  const uint64_t hot_bytes = from_bytes_[static_cast<size_t>(Tier::kHot)];
  const PageEntry hot(Tier::kHot, 0);
  const PageEntry coded(page.tier, static_cast<uint32_t>(hot_bytes / kArenaUnitBytes));
  const PageEntry map[] = {hot};
  const KvCacheView from = from_.view(map);
  const KvCacheView to = to_.view(map);
  const auto transcode = [&](const KvCacheView& kv, PageEntry source, PageEntry target,
                             MoveResult& result) {
    const PageMove move{.from = source,
                        .to = target,
                        .checksum = page.checksum,
                        .first_position = page.first_position};
    device_.ops().TranscodePages(std::span(&move, 1), kv, std::span(&result, 1), *stream_);
    return stream_->Sync().ok() && result.outcome == MoveResult::Outcome::kOk;
  };
  MoveResult result;
  stream_->Copy(from.arena + coded.offset(), page.bytes.data(), page.bytes.size());
  if (!transcode(from, coded, hot, result)) {
    return false;
  }
  stream_->Copy(to.arena, from.arena, hot_bytes);
  if (!transcode(to, hot, coded, result)) {
    return false;
  }
  std::vector<std::byte> recoded(to_bytes_[tier]);
  stream_->Copy(recoded.data(), to.arena + coded.offset(), recoded.size());
  if (!stream_->Sync().ok()) {
    return false;
  }
  page.bytes = std::move(recoded);
  page.checksum = result.checksum;
  return true;
}

}  // namespace thermocline
