#include "engine/kv/page_names.h"

#include <cstddef>
#include <span>
#include <tuple>
#include <vector>

#include "scheduler/prefix_cache.h"

namespace thermocline {
namespace {

constexpr Tier kStoredTiers[] = {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive};

ContentHash Mixed(const ContentHash& hash, const ContentHash& salt) {
  return {.low = hash.low ^ salt.low, .high = hash.high ^ salt.high};
}

}  // namespace

PageNames::Salts PageNames::SaltsOf(const KvFormats& formats) {
  const auto means = std::as_bytes(std::span(formats.mean_keys));
  std::vector<std::byte> bytes(means.begin(), means.end());
  Salts salts{};
  for (const Tier tier : {Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    if (tier == Tier::kCold) {
      const auto codecs = std::as_bytes(std::span(formats.cold));
      bytes.insert(bytes.end(), codecs.begin(), codecs.end());
    }
    salts[static_cast<size_t>(tier)] = PrefixCache::DefaultHash(bytes, static_cast<uint64_t>(tier));
  }
  return salts;
}

PageNames::PageNames(const KvFormats& formats) : salts_(SaltsOf(formats)) {}
PageNames::PageNames(const KvFormats& formats, const KvFormats& older)
    : salts_(SaltsOf(formats)), older_(SaltsOf(older)) {}

ContentHash PageNames::NameOf(const ContentHash& hash, Tier tier) const {
  return Mixed(hash, salts_[static_cast<size_t>(tier)]);
}

std::optional<ContentHash> PageNames::OlderNameOf(const ContentHash& hash, Tier tier) const {
  if (!older_.has_value() || (tier != Tier::kWarm && tier != Tier::kCold)) {
    return std::nullopt;
  }
  return Mixed(hash, (*older_)[static_cast<size_t>(tier)]);
}

std::optional<PageNames::Stored> PageNames::Find(const BackingStore& store,
                                                 const ContentHash& hash) const {
  std::optional<Stored> best;
  const auto look = [&](const std::optional<ContentHash>& name) {
    const auto info = name.has_value() ? store.Find(*name) : std::nullopt;
    if (info.has_value() && (!best.has_value() || std::tie(info->loss, info->tier) <
                                                      std::tie(best->info.loss, best->info.tier))) {
      best = Stored{*name, *info};
    }
  };
  for (const Tier tier : kStoredTiers) {
    look(NameOf(hash, tier));
  }
  for (const Tier tier : kStoredTiers) {
    look(OlderNameOf(hash, tier));
  }
  return best;
}

// Without salts names are one and the same: pinned as often, and as often unpinned.
void PageNames::SetPinned(BackingStore& store, const ContentHash& hash, bool pinned) const {
  for (const Tier tier : kStoredTiers) {
    store.SetPinned(NameOf(hash, tier), pinned);
    if (const std::optional<ContentHash> older = OlderNameOf(hash, tier)) {
      store.SetPinned(*older, pinned);
    }
  }
}

}  // namespace thermocline
