#include "scheduler/arena.h"

#include <algorithm>
#include <bit>
#include <iterator>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr uint32_t kMaxHotPages = 16;  // in one superblock

// How many hot pages a superblock holds. A larger one wastes less at its end, whatever the tier
// (360 units of a hot page hold four cold pages of 74 and leave 64 over); a smaller one leaves less
// free in the last superblock of each tier. The sum of both, as a part of the arena, is smallest.
uint32_t HotPagesPerSuperblock(std::span<const uint32_t, kNumTiers> page_units,
                               uint32_t num_units) {
  const uint32_t hot = page_units[static_cast<size_t>(Tier::kHot)];
  uint32_t best = 1;
  double best_waste = 1e9;
  for (uint32_t pages = 1; pages <= kMaxHotPages && pages * hot <= num_units; ++pages) {
    const uint32_t units = pages * hot;
    double at_end = 0;
    int num_tiers = 0;
    for (const uint32_t page : page_units) {
      if (page > 0) {
        at_end = std::max(at_end, static_cast<double>(units % page) / units);
        ++num_tiers;
      }
    }
    const double half_empty = num_tiers > 1 ? 0.5 * num_tiers * units / num_units : 0.0;
    if (at_end + half_empty < best_waste) {
      best_waste = at_end + half_empty;
      best = pages;
    }
  }
  return best;
}

}  // namespace

Arena::Arena(std::span<const uint32_t, kNumTiers> page_bytes, uint64_t arena_bytes)
    : num_units_(static_cast<uint32_t>(
          std::min<uint64_t>(arena_bytes / kArenaUnitBytes, kMaxArenaUnits))) {
  for (size_t tier = 0; tier < kNumTiers; ++tier) {
    page_units_[tier] =
        static_cast<uint32_t>((page_bytes[tier] + kArenaUnitBytes - 1) / kArenaUnitBytes);
  }
  const uint32_t hot = units_per_page(Tier::kHot);
  CHECK(hot > 0);
  superblock_units_ = hot * HotPagesPerSuperblock(page_units_, num_units_);
  superblocks_.resize((num_units_ + superblock_units_ - 1) / superblock_units_);
  for (uint32_t i = 0; i < superblocks_.size(); ++i) {
    empty_.insert(i);
  }
}

void Arena::SetPageBytes(std::span<const uint32_t, kNumTiers> page_bytes) {
  for (size_t tier = 0; tier < kNumTiers; ++tier) {
    const auto units =
        static_cast<uint32_t>((page_bytes[tier] + kArenaUnitBytes - 1) / kArenaUnitBytes);
    CHECK(units == page_units_[tier] || num_used_[tier] == 0);
    page_units_[tier] = units;
  }
}

uint32_t Arena::Capacity(size_t superblock, Tier tier) const {
  const auto first = static_cast<uint32_t>(superblock) * superblock_units_;
  const uint32_t page = units_per_page(tier);
  return page == 0 ? 0 : std::min(superblock_units_, num_units_ - first) / page;
}

std::optional<PageEntry> Arena::Allocate(Tier tier, uint64_t keep_empty) {
  std::set<std::pair<uint32_t, uint32_t>>& partials = partial(tier);
  uint32_t index = 0;
  if (!partials.empty()) {
    index = partials.begin()->second;
    partials.erase(partials.begin());
  } else {
    const auto found = std::find_if(empty_.begin(), empty_.end(),
                                    [&](uint32_t i) { return Capacity(i, tier) > 0; });
    if (found == empty_.end() || empty_.size() <= keep_empty) {
      return std::nullopt;
    }
    index = *found;
    empty_.erase(found);
    superblocks_[index].tier = tier;
    superblocks_[index].used.assign((Capacity(index, tier) + 63) / 64, 0);
    num_lent_places_[static_cast<size_t>(tier)] += Capacity(index, tier);
  }
  Superblock& superblock = superblocks_[index];
  const auto word = std::find_if(superblock.used.begin(), superblock.used.end(),
                                 [](uint64_t bits) { return ~bits != 0; });
  CHECK(word != superblock.used.end());
  const auto bit = static_cast<uint32_t>(std::countr_one(*word));
  *word |= uint64_t{1} << bit;
  ++superblock.num_used;
  ++num_used_[static_cast<size_t>(tier)];
  if (const uint32_t left = Capacity(index, tier) - superblock.num_used; left > 0) {
    partials.emplace(left, index);
  }
  const auto place = static_cast<uint32_t>(word - superblock.used.begin()) * 64 + bit;
  return PageEntry(tier, index * superblock_units_ + place * units_per_page(tier));
}

void Arena::Free(PageEntry place) {
  const Tier tier = place.tier();
  const uint32_t index = place.unit() / superblock_units_;
  CHECK(units_per_page(tier) > 0 && index < superblocks_.size());
  Superblock& superblock = superblocks_[index];
  const uint32_t unit = place.unit() % superblock_units_;
  const uint32_t slot = unit / units_per_page(tier);
  CHECK(superblock.num_used > 0 && superblock.tier == tier && unit % units_per_page(tier) == 0);
  uint64_t& word = superblock.used[slot / 64];
  const uint64_t bit = uint64_t{1} << slot % 64;
  CHECK((word & bit) != 0);  // else freed twice, or never handed out
  word &= ~bit;
  const uint32_t capacity = Capacity(index, tier);
  partial(tier).erase({capacity - superblock.num_used, index});
  --superblock.num_used;
  --num_used_[static_cast<size_t>(tier)];
  if (superblock.num_used > 0) {
    partial(tier).emplace(capacity - superblock.num_used, index);
  } else {
    num_lent_places_[static_cast<size_t>(tier)] -= capacity;
    empty_.insert(index);
  }
}

uint64_t Arena::bytes_free() const {
  uint64_t units = num_units_;
  for (size_t tier = 0; tier < kNumTiers; ++tier) {
    units -= uint64_t{num_used_[tier]} * page_units_[tier];
  }
  return units * kArenaUnitBytes;
}

uint64_t Arena::num_free_places(Tier tier, uint64_t keep_empty) const {
  uint64_t places = num_partial_places(tier);
  if (empty_.size() > keep_empty) {
    // All but the last are of one size, and the last is taken last.
    const uint32_t last = keep_empty > 0 ? 0 : *empty_.rbegin();
    places += (empty_.size() - keep_empty - 1) * uint64_t{Capacity(0, tier)} + Capacity(last, tier);
  }
  return places;
}

uint64_t Arena::num_places(Tier tier) const {
  return superblocks_.empty() ? 0
                              : (superblocks_.size() - 1) * uint64_t{Capacity(0, tier)} +
                                    Capacity(superblocks_.size() - 1, tier);
}

std::optional<std::pair<uint32_t, uint32_t>> Arena::SparseSuperblock(Tier tier) const {
  const auto index = static_cast<size_t>(tier);
  if (partial_[index].size() < 2) {
    return std::nullopt;
  }
  const auto [num_free, sparsest] = *partial_[index].rbegin();
  const uint64_t free_elsewhere = num_partial_places(tier) - num_free;
  if (superblocks_[sparsest].num_used > free_elsewhere) {
    return std::nullopt;
  }
  const uint32_t first = sparsest * superblock_units_;
  return std::pair(first, first + superblock_units_);
}

}  // namespace thermocline
