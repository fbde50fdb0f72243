#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "kernels/page_format.h"

namespace thermocline {

// Hands out places for pages in the one arena, which is counted in units of 4 KiB. There is no
// fixed split between tiers: the arena is cut into superblocks of a few hot pages each, a
// superblock is lent to one tier when that tier needs room, and taken back when its last page has
// gone. So pages of different sizes never lie between each other, and emptying one sparse
// superblock (by moving its pages to others of their tier) makes room for any tier.
//
// Bookkeeping only; the bytes are the engine's. Owned by PagePool. Not thread-safe: only the engine
// thread calls it. Invariant: every place lies in a superblock lent to its tier; an empty
// superblock is lent to none.
class Arena {
 public:
  // Bytes of one page by tier, rounded up to whole units; 0: the tier has no places here. What of
  // `arena_bytes` fills no unit, or lies above kMaxArenaUnits, stays unused.
  Arena(std::span<const uint32_t, kNumTiers> page_bytes, uint64_t arena_bytes);

  // Other sizes of pages, in tiers that have none now.
  void SetPageBytes(std::span<const uint32_t, kNumTiers> page_bytes);

  // A place in the fullest superblock of the tier that has one, or else in an empty superblock.
  // Nothing when there is neither or the tier has no places.
  // `keep_empty` superblocks are left empty.
  std::optional<PageEntry> Allocate(Tier tier, uint64_t keep_empty = 0);
  void Free(PageEntry place);  // exactly as Allocate gave it

  uint64_t num_units() const { return num_units_; }
  uint32_t units_per_page(Tier tier) const { return page_units_[static_cast<size_t>(tier)]; }
  uint32_t units_per_superblock() const { return superblock_units_; }
  uint64_t bytes_used(Tier tier) const {
    return uint64_t{num_used_[static_cast<size_t>(tier)]} * units_per_page(tier) * kArenaUnitBytes;
  }
  uint64_t num_used(Tier tier) const { return num_used_[static_cast<size_t>(tier)]; }
  uint64_t bytes_free() const;  // in no page's place, whether a superblock is lent or not
  // Pages of `tier` that would fit now if only that tier were asked for.
  uint64_t num_free_places(Tier tier, uint64_t keep_empty = 0) const;
  uint64_t num_places(Tier tier) const;  // the same of an empty arena
  // Free places of superblocks that are lent to the tier.
  uint64_t num_partial_places(Tier tier) const {
    const auto index = static_cast<size_t>(tier);
    return num_lent_places_[index] - num_used_[index];
  }
  uint64_t num_superblocks() const { return superblocks_.size(); }
  uint64_t num_empty_superblocks() const { return empty_.size(); }

  // The superblock of the tier with the fewest pages, when these fit into free places of the tier's
  // other superblocks: [first unit, end). What Allocate gives next then lies outside it.
  std::optional<std::pair<uint32_t, uint32_t>> SparseSuperblock(Tier tier) const;

 private:
  struct Superblock {
    Tier tier = Tier::kHot;  // lent to, when num_used > 0
    uint32_t num_used = 0;
    std::vector<uint64_t> used;  // a bit for each place
  };

  uint32_t Capacity(size_t superblock, Tier tier) const;
  std::set<std::pair<uint32_t, uint32_t>>& partial(Tier tier) {
    return partial_[static_cast<size_t>(tier)];
  }

  uint32_t num_units_ = 0;
  uint32_t superblock_units_ = 1;
  std::array<uint32_t, kNumTiers> page_units_{};
  std::array<uint32_t, kNumTiers> num_used_{};
  std::array<uint64_t, kNumTiers> num_lent_places_{};  // in lent superblocks, used or free
  std::vector<Superblock> superblocks_;                // the last one may be short
  std::set<uint32_t> empty_;
  // Lent superblocks with a free place: (free places, index), so the fullest comes first.
  std::array<std::set<std::pair<uint32_t, uint32_t>>, kNumTiers> partial_;
};

}  // namespace thermocline
