#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "kernels/page_format.h"

namespace thermocline {

// Hands out places for pages in the one arena, which is counted in units of 4 KiB. There is no
// split between tiers: a place given back is room for a page of any tier. Bookkeeping only; the
// bytes are the engine's. Owned by PagePool. Not thread-safe: only the engine thread calls it.
// Invariant: every unit lies in exactly one place or in exactly one free extent, and no two free
// extents touch.
class Arena {
 public:
  // Bytes of one page by tier, rounded up to whole units; 0: the tier has no places here. What of
  // `arena_bytes` fills no unit, or lies above kMaxArenaUnits, stays unused.
  Arena(std::span<const uint32_t, kNumTiers> page_bytes, uint64_t arena_bytes);

  // The lowest place that is large enough; nothing when there is none or the tier has no places.
  std::optional<PageEntry> Allocate(Tier tier);
  void Free(PageEntry place);  // exactly as Allocate gave it

  uint64_t num_units() const { return num_units_; }
  uint32_t units_per_page(Tier tier) const { return page_units_[static_cast<size_t>(tier)]; }
  uint64_t bytes_used(Tier tier) const {
    return used_units_[static_cast<size_t>(tier)] * kArenaUnitBytes;
  }
  uint64_t bytes_free() const { return num_free_units_ * kArenaUnitBytes; }
  // Pages of `tier` that would fit now if only that tier were asked for.
  uint64_t num_free_places(Tier tier) const { return num_free_places_[static_cast<size_t>(tier)]; }

  const std::map<uint32_t, uint32_t>& free_extents() const { return free_extents_; }

 private:
  void AddExtent(uint32_t first_unit, uint32_t num_units);
  void RemoveExtent(std::map<uint32_t, uint32_t>::iterator extent);

  uint32_t num_units_ = 0;
  std::array<uint32_t, kNumTiers> page_units_{};
  std::array<uint64_t, kNumTiers> used_units_{};
  std::array<uint64_t, kNumTiers> num_free_places_{};
  uint64_t num_free_units_ = 0;
  std::map<uint32_t, uint32_t> free_extents_;  // first unit -> length
  std::vector<bool> is_place_;                 // by unit: an allocated place starts here
};

}  // namespace thermocline
