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

// Hands out slots, room for one page each, in the one arena. It is counted in units of 4 KiB. There
// is no fixed split between tiers: the arena is cut into superblocks of a few hot pages each. A
// superblock is lent to one tier when that tier needs room, and taken back when its last page has
// gone. So pages of different sizes never mix, and emptying one sparse superblock (by moving its
// pages to others of their tier) makes room for any tier.
//
// Bookkeeping only; the bytes are the engine's. Owned by PagePool. Not thread-safe: only the engine
// thread calls it. Invariant: every slot lies in a superblock lent to its tier; an empty superblock
// is lent to none.
class Arena {
 public:
  // `page_bytes`: the size of a page in each tier, rounded up to whole units; 0: the tier has no
  // slots here. The part of `arena_bytes` that fills no unit, or lies above kMaxArenaUnits, stays
  // unused.
  Arena(std::span<const uint32_t, kNumTiers> page_bytes, uint64_t arena_bytes);

  // Changes page sizes of tiers that have no pages now.
  void SetPageBytes(std::span<const uint32_t, kNumTiers> page_bytes);

  // A slot in the tier's fullest superblock that has a free one, or else in an empty superblock.
  // Nothing when there is neither, or when the tier has no slots. Leaves `keep_empty` superblocks
  // empty.
  std::optional<PageEntry> Allocate(Tier tier, uint64_t keep_empty = 0);
  void Free(PageEntry place);  // must be what Allocate returned

  uint64_t num_units() const { return num_units_; }
  uint32_t units_per_page(Tier tier) const { return page_units_[static_cast<size_t>(tier)]; }
  uint32_t units_per_superblock() const { return superblock_units_; }
  uint64_t bytes_used(Tier tier) const {
    return uint64_t{num_used_[static_cast<size_t>(tier)]} * units_per_page(tier) * kArenaUnitBytes;
  }
  uint64_t num_used(Tier tier) const { return num_used_[static_cast<size_t>(tier)]; }
  uint64_t bytes_free() const;  // outside all pages' slots, in lent superblocks or not
  // How many pages of `tier` would fit now, if only that tier were asked for.
  uint64_t num_free_places(Tier tier, uint64_t keep_empty = 0) const;
  uint64_t num_places(Tier tier) const;  // how many would fit into an empty arena
  // Free slots of superblocks that are lent to the tier.
  uint64_t num_partial_places(Tier tier) const {
    const auto index = static_cast<size_t>(tier);
    return num_lent_places_[index] - num_used_[index];
  }
  uint64_t num_superblocks() const { return superblocks_.size(); }
  uint64_t num_empty_superblocks() const { return empty_.size(); }

  // The units [first, end) of the tier's superblock with the fewest pages, if these fit into free
  // slots of the tier's other superblocks. The slots that Allocate gives next lie outside it.
  std::optional<std::pair<uint32_t, uint32_t>> SparseSuperblock(Tier tier) const;

 private:
  struct Superblock {
    Tier tier = Tier::kHot;  // the tier that it is lent to, while num_used > 0
    uint32_t num_used = 0;
    std::vector<uint64_t> used;  // one bit per slot
  };

  uint32_t Capacity(size_t superblock, Tier tier) const;
  std::set<std::pair<uint32_t, uint32_t>>& partial(Tier tier) {
    return partial_[static_cast<size_t>(tier)];
  }

  uint32_t num_units_ = 0;
  uint32_t superblock_units_ = 1;
  std::array<uint32_t, kNumTiers> page_units_{};
  std::array<uint32_t, kNumTiers> num_used_{};
  std::array<uint64_t, kNumTiers> num_lent_places_{};  // slots in lent superblocks, used or free
  std::vector<Superblock> superblocks_;                // the last one may be short
  std::set<uint32_t> empty_;
  // Lent superblocks with a free slot: (free slots, index), so the fullest comes first.
  std::array<std::set<std::pair<uint32_t, uint32_t>>, kNumTiers> partial_;
};

}  // namespace thermocline
