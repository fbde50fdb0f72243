#include "scheduler/arena.h"

#include <algorithm>
#include <iterator>

#include "kernels/base/check.h"

namespace thermocline {

Arena::Arena(std::span<const uint32_t, kNumTiers> page_bytes, uint64_t arena_bytes)
    : num_units_(
          static_cast<uint32_t>(std::min<uint64_t>(arena_bytes / kArenaUnitBytes, kMaxArenaUnits))),
      is_place_(num_units_, false) {
  for (int tier = 0; tier < kNumTiers; ++tier) {
    page_units_[tier] =
        static_cast<uint32_t>((page_bytes[tier] + kArenaUnitBytes - 1) / kArenaUnitBytes);
  }
  if (num_units_ > 0) {
    AddExtent(0, num_units_);
  }
}

std::optional<PageEntry> Arena::Allocate(Tier tier) {
  const auto index = static_cast<size_t>(tier);
  const uint32_t needed = page_units_[index];
  if (needed == 0 || num_free_places_[index] == 0) {
    return std::nullopt;
  }
  auto extent = free_extents_.begin();
  while (extent->second < needed) {
    ++extent;  // ends: num_free_places_ says that some extent is long enough
    CHECK(extent != free_extents_.end());
  }
  const auto [unit, length] = *extent;
  RemoveExtent(extent);
  if (length > needed) {
    AddExtent(unit + needed, length - needed);
  }
  used_units_[index] += needed;
  CHECK(!is_place_[unit]);
  is_place_[unit] = true;
  return PageEntry(tier, unit);
}

void Arena::Free(PageEntry place) {
  const auto index = static_cast<size_t>(place.tier());
  uint32_t unit = place.unit();
  uint32_t length = page_units_[index];
  CHECK(unit < num_units_ && is_place_[unit]);  // else freed twice, or never handed out
  CHECK(length > 0 && used_units_[index] >= length);
  is_place_[unit] = false;
  used_units_[index] -= length;

  auto next = free_extents_.lower_bound(unit);
  if (next != free_extents_.end()) {
    CHECK(unit + length <= next->first);
    if (unit + length == next->first) {
      length += next->second;
      const auto merged = next++;
      RemoveExtent(merged);
    }
  }
  if (next != free_extents_.begin()) {
    const auto previous = std::prev(next);
    CHECK(previous->first + previous->second <= unit);
    if (previous->first + previous->second == unit) {
      unit = previous->first;
      length += previous->second;
      RemoveExtent(previous);
    }
  }
  AddExtent(unit, length);
}

void Arena::AddExtent(uint32_t first_unit, uint32_t num_units) {
  free_extents_.emplace(first_unit, num_units);
  num_free_units_ += num_units;
  for (int tier = 0; tier < kNumTiers; ++tier) {
    num_free_places_[tier] += page_units_[tier] == 0 ? 0 : num_units / page_units_[tier];
  }
}

void Arena::RemoveExtent(std::map<uint32_t, uint32_t>::iterator extent) {
  const uint32_t num_units = extent->second;
  num_free_units_ -= num_units;
  for (int tier = 0; tier < kNumTiers; ++tier) {
    num_free_places_[tier] -= page_units_[tier] == 0 ? 0 : num_units / page_units_[tier];
  }
  free_extents_.erase(extent);
}

}  // namespace thermocline
