#include <algorithm>
#include <numeric>
#include <vector>

#include "scheduler/page_pool.h"

// PagePool::Audit: the invariants of page state, spelled out.

namespace thermocline {

Status PagePool::Audit() const {
  RETURN_IF_ERROR(AuditPages());
  RETURN_IF_ERROR(AuditPlaces());
  return AuditCache();
}

// Each page in exactly one state, each free id listed once.
Status PagePool::AuditPages() const {
  std::vector<bool> listed_free(pages_.size(), false);
  size_t num_moving = 0;
  size_t num_transferring = 0;
  for (const PageId page : free_ids_) {
    if (listed_free[page]) {
      return Internal("page {} is listed free twice", page);
    }
    listed_free[page] = true;
  }
  for (PageId page = 0; page < pages_.size(); ++page) {
    const Page& state = pages_[page];
    if (state.allocated == listed_free[page]) {
      return Internal("page {} is neither or both allocated and free", page);
    }
    if (state.refs < 0 || (!state.allocated && (state.refs > 0 || state.hashed))) {
      return Internal("page {} is free with {} references", page, state.refs);
    }
    if (std::accumulate(state.readers.begin(), state.readers.end(), 0) != state.refs) {
      return Internal("page {} has {} references, and not as many readers", page, state.refs);
    }
    if (state.allocated && coldest_allowed_[page] != AllowedNow(page)) {
      return Internal("page {} is said to go as far as tier {}", page,
                      static_cast<int>(coldest_allowed_[page]));
    }
    if (state.allocated && state.work != Work::kLoad &&
        (state.loss < page_map_[page].tier() || !Accepts(static_cast<PageId>(page), state.loss))) {
      return Internal("page {} has been in tier {}, which it hides or a reader refuses", page,
                      static_cast<int>(state.loss));
    }
    if (state.allocated && state.refs == 0 && !state.hashed && state.work == Work::kNone) {
      return Internal("page {} has neither a reference nor a hash", page);
    }
    if (state.allocated != !(page_map_[page] == kNoPlace)) {
      return Internal("page {} and the page map disagree", page);
    }
    if (state.work != Work::kNone && !state.allocated) {
      return Internal("page {} is free and at work", page);
    }
    num_moving += state.work == Work::kMove ? 1 : 0;
    num_transferring += state.work != Work::kMove && state.work != Work::kNone ? 1 : 0;
  }
  if (num_moving != num_moving_ || num_transferring != num_transferring_) {
    return Internal("{} pages move and {} are saved or loaded, {} and {} are counted", num_moving,
                    num_transferring, num_moving_, num_transferring_);
  }
  return {};
}

// Each unit of the arena free or in one page's place, each page known by its place.
Status PagePool::AuditPlaces() const {
  std::vector<int> owners(arena_.num_units(), 0);
  for (PageId page = 0; page < pages_.size(); ++page) {
    if (!pages_[page].allocated) {
      continue;
    }
    const auto own = [&](PageEntry place) {
      for (uint32_t i = 0; i < arena_.units_per_page(place.tier()); ++i) {
        ++owners.at(place.unit() + i);
      }
    };
    if (page_at_[page_map_[page].unit()] != page) {
      return Internal("page {} is not known where it is", page);
    }
    own(page_map_[page]);
    if (pages_[page].work == Work::kMove || pages_[page].work == Work::kWake) {
      own(pages_[page].move_to);
    }
  }
  if (std::any_of(owners.begin(), owners.end(), [](int count) { return count > 1; })) {
    return Internal("a unit of the arena is owned twice");
  }
  const auto num_owned = static_cast<uint64_t>(std::count(owners.begin(), owners.end(), 1));
  uint64_t bytes = arena_.bytes_free();
  for (int tier = 0; tier < kNumTiers; ++tier) {
    bytes += arena_.bytes_used(static_cast<Tier>(tier));
  }
  if (num_owned * kArenaUnitBytes + arena_.bytes_free() != bytes ||
      bytes != arena_.num_units() * kArenaUnitBytes) {
    return Internal("the arena's accounts do not add up: {} bytes", bytes);
  }
  return {};
}

// The LRU list, the index and the trees.
Status PagePool::AuditCache() const {
  size_t num_listed = 0;
  uint64_t num_cold_units = 0;
  uint64_t last_use = 0;
  for (PageId page = oldest_, older = kNone; page != kNone;
       older = page, page = pages_[page].newer) {
    const Page& state = pages_[page];
    if (state.refs != 0 || !state.hashed || state.older != older || state.last_use <= last_use) {
      return Internal("page {} is wrong in the list of cached pages", page);
    }
    last_use = state.last_use;
    num_cold_units += ColdUnits(page);
    ++num_listed;
  }
  size_t num_cached = 0;
  size_t num_hashed = 0;
  for (PageId page = 0; page < pages_.size(); ++page) {
    const Page& state = pages_[page];
    num_hashed += state.hashed ? 1 : 0;
    num_cached += state.hashed && state.refs == 0 ? 1 : 0;
    if (state.hashed && Find(state.hash) != page) {
      return Internal("page {} is not found by its hash", page);
    }
    if (state.parent != kNone && (!state.hashed || !pages_[state.parent].hashed)) {
      return Internal("page {} hangs below a page that cannot be found", page);
    }
    for (PageId child = state.first_child; child != kNone; child = pages_[child].next_sibling) {
      if (pages_[child].parent != page) {
        return Internal("page {} has lost its child {}", page, child);
      }
    }
  }
  if (num_cold_units != cold_evictable_units_) {
    return Internal("{} units of evictable cold pages, {} counted", num_cold_units,
                    cold_evictable_units_);
  }
  if (num_listed != num_cached || num_evictable_ != num_cached || by_hash_.size() != num_hashed) {
    return Internal("{} pages listed, {} cached, {} counted", num_listed, num_cached,
                    num_evictable_);
  }
  return {};
}

}  // namespace thermocline
