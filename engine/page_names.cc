#include "engine/page_names.h"

#include <cstddef>
#include <span>
#include <tuple>
#include <vector>

#include "scheduler/prefix_cache.h"

namespace thermocline {
namespace {

constexpr Tier kStoredTiers[] = {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive};

}  // namespace

PageNames::PageNames(const KvFormats& formats) {
  const auto means = std::as_bytes(std::span(formats.mean_keys));
  std::vector<std::byte> bytes(means.begin(), means.end());
  for (const Tier tier : {Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    if (tier == Tier::kCold) {
      const auto codecs = std::as_bytes(std::span(formats.cold));
      bytes.insert(bytes.end(), codecs.begin(), codecs.end());
    }
    salts_[static_cast<size_t>(tier)] =
        PrefixCache::DefaultHash(bytes, static_cast<uint64_t>(tier));
  }
}

ContentHash PageNames::NameOf(const ContentHash& hash, Tier tier) const {
  const ContentHash& salt = salts_[static_cast<size_t>(tier)];
  return {.low = hash.low ^ salt.low, .high = hash.high ^ salt.high};
}

std::optional<PageNames::Stored> PageNames::Find(const BackingStore& store,
                                                 const ContentHash& hash) const {
  std::optional<Stored> best;
  for (const Tier tier : kStoredTiers) {
    const ContentHash name = NameOf(hash, tier);
    const std::optional<BackingStore::Info> info = store.Find(name);
    if (info.has_value() && (!best.has_value() || std::tie(info->loss, info->tier) <
                                                      std::tie(best->info.loss, best->info.tier))) {
      best = Stored{name, *info};
    }
  }
  return best;
}

// With no salts they are one and the same: pinned as often, and as often unpinned.
void PageNames::SetPinned(BackingStore& store, const ContentHash& hash, bool pinned) const {
  for (const Tier tier : kStoredTiers) {
    store.SetPinned(NameOf(hash, tier), pinned);
  }
}

}  // namespace thermocline
