#include "scheduler/page_pool.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

// More pages than places of the smallest size cannot exist at once.
size_t MaxPages(const Arena& arena, uint32_t smallest_page_bytes) {
  uint32_t smallest = arena.units_per_page(Tier::kHot);
  if (smallest_page_bytes > 0) {
    smallest = std::min(
        smallest,
        static_cast<uint32_t>((smallest_page_bytes + kArenaUnitBytes - 1) / kArenaUnitBytes));
  }
  for (int tier = 0; tier < kNumTiers; ++tier) {
    const uint32_t units = arena.units_per_page(static_cast<Tier>(tier));
    if (units > 0) {
      smallest = std::min(smallest, units);
    }
  }
  CHECK(smallest > 0);
  return arena.num_units() / smallest;
}

}  // namespace

PagePool::PagePool(const KvLayout& layout, std::span<const uint32_t, kNumTiers> page_bytes,
                   uint64_t arena_bytes, uint32_t smallest_page_bytes)
    : layout_(layout),
      arena_(page_bytes, arena_bytes),
      num_pages_(arena_.num_places(Tier::kHot)),
      page_map_(MaxPages(arena_, smallest_page_bytes), kNoPlace),
      pages_(page_map_.size()),
      heats_(page_map_.size()),
      coldest_allowed_(page_map_.size(), Tier::kHot),
      page_at_(arena_.num_units(), kNone),
      free_ids_(page_map_.size()) {
  CHECK(layout.page_tokens > 0);
  CHECK(arena_.units_per_page(Tier::kHot) > 0);
  for (size_t i = 0; i < free_ids_.size(); ++i) {
    free_ids_[i] = static_cast<PageId>(free_ids_.size() - 1 - i);  // lowest ids first
  }
  by_hash_.reserve(page_map_.size());
}

size_t PagePool::num_free() const {
  const uint64_t places = arena_.num_free_places(Tier::kHot, num_reserved_superblocks_);
  const uint64_t held_back = PlacesHeldBack();
  return std::min<size_t>(free_ids_.size(), places - std::min(places, held_back));
}

// Free hot places that nobody may have while the reserve is lent: those with which compaction
// empties as many superblocks again, less what demotions to cold will free. Else new pages would
// take every place that a demotion frees, until the next one had nowhere to go.
uint64_t PagePool::PlacesHeldBack() const {
  const uint64_t num_empty = arena_.num_empty_superblocks();
  if (num_empty >= num_reserved_superblocks_) {
    return 0;
  }
  const uint64_t needed = (num_reserved_superblocks_ - num_empty) *
                          (arena_.units_per_superblock() / arena_.units_per_page(Tier::kHot));
  const uint64_t to_go = arena_.num_free_places(Tier::kCold);
  return needed - std::min(needed, to_go);
}

std::optional<PageId> PagePool::Allocate(Tier accepted) {
  while (num_free() == 0) {
    if (oldest_ == kNone) {
      return std::nullopt;
    }
    Evict(oldest_);
  }
  const std::optional<PageEntry> place = arena_.Allocate(Tier::kHot, num_reserved_superblocks_);
  CHECK(place.has_value());
  return TakePlace(*place, accepted);
}

std::optional<PageId> PagePool::AllocateFromReserve(Tier accepted) {
  const uint64_t reserved = std::exchange(num_reserved_superblocks_, 0);
  const std::optional<PageId> page = Allocate(accepted);
  num_reserved_superblocks_ = reserved;
  return page;
}

PageId PagePool::TakePlace(PageEntry place, Tier accepted) {
  const PageId page = free_ids_.back();
  free_ids_.pop_back();
  CHECK(!pages_[page].allocated);
  pages_[page] = Page{.refs = 1, .allocated = true};
  heats_[page] = {};
  pages_[page].readers[static_cast<size_t>(accepted)] = 1;
  UpdateAllowed(page);
  page_map_[page] = place;
  page_at_[place.unit()] = page;
  return page;
}

void PagePool::AddRef(PageId page, Tier accepted) {
  Page& state = pages_[page];
  CHECK(state.allocated && state.loss <= accepted);
  ++state.readers[static_cast<size_t>(accepted)];
  UpdateAllowed(page);
  if (state.refs++ == 0) {
    RemoveFromLru(page);
  }
}

void PagePool::Release(PageId page, Tier accepted) {
  Page& state = pages_[page];
  int& readers = state.readers[static_cast<size_t>(accepted)];
  CHECK(state.allocated && readers > 0);
  --readers;
  UpdateAllowed(page);
  if (--state.refs > 0) {
    return;
  }
  if (state.hashed) {
    AppendToLru(page);
  } else {
    Free(page);
  }
}

Tier PagePool::accepted(PageId page) const {
  const std::array<int, kNumTiers>& readers = pages_[page].readers;
  const auto* strictest =
      std::find_if(readers.begin(), readers.end(), [](int count) { return count > 0; });
  return strictest == readers.end() ? kAnyTier : static_cast<Tier>(strictest - readers.begin());
}

Tier PagePool::AllowedNow(PageId page) const {
  const Page& state = pages_[page];
  const bool stays = !state.full || state.work != Work::kNone || state.pinned;
  return stays ? Tier::kHot : accepted(page);
}

void PagePool::UpdateAllowed(PageId page) { coldest_allowed_[page] = AllowedNow(page); }

void PagePool::SetWork(PageId page, Work work) {
  pages_[page].work = work;
  UpdateAllowed(page);
}

void PagePool::Pin(PageId page) {
  pages_[page].pinned = true;
  UpdateAllowed(page);
}

void PagePool::SetLoss(PageId page, Tier loss) {
  CHECK(Accepts(page, loss));
  num_loss_changes_ += pages_[page].loss != loss ? 1 : 0;
  pages_[page].loss = loss;
}

void PagePool::NoteComputed(PageId page, Tier loss) {
  Page& state = pages_[page];
  CHECK(state.refs > 0 && !state.full && Accepts(page, loss));
  state.loss = std::max(state.loss, loss);
}

void PagePool::MarkFull(PageId page, int32_t first_position) {
  CHECK(pages_[page].allocated && pages_[page].refs > 0);
  pages_[page].full = true;
  pages_[page].first_position = first_position;
  UpdateAllowed(page);
}

std::vector<PageId> PagePool::OldestCached(size_t max_pages) const {
  std::vector<PageId> pages;
  for (PageId page = oldest_; page != kNone && pages.size() < max_pages;
       page = pages_[page].newer) {
    pages.push_back(page);
  }
  return pages;
}

void PagePool::Forget(PageId page) {
  if (pages_[page].hashed) {
    Evict(page);
  }
}

bool PagePool::SetHash(PageId page, const ContentHash& hash, std::optional<PageId> parent) {
  Page& state = pages_[page];
  CHECK(state.allocated && state.refs > 0 && !state.hashed);
  if (!by_hash_.emplace(hash, page).second) {
    return false;
  }
  state.hashed = true;
  state.hash = hash;
  if (parent.has_value()) {
    CHECK(*parent != page && pages_[*parent].hashed);
    LinkToParent(page, *parent);
  }
  return true;
}

std::optional<PageId> PagePool::Find(const ContentHash& hash) const {
  const auto found = by_hash_.find(hash);
  return found == by_hash_.end() ? std::nullopt : std::optional(found->second);
}

void PagePool::Free(PageId page) {
  Page& state = pages_[page];
  CHECK(state.refs == 0 && !state.hashed);
  if (state.work != Work::kNone) {
    return;  // its bytes are being read or written: the end of that frees it
  }
  arena_.Free(page_map_[page]);
  page_at_[page_map_[page].unit()] = kNone;
  page_map_[page] = kNoPlace;
  state.allocated = false;
  free_ids_.push_back(page);
}

void PagePool::Evict(PageId page) {
  UnlinkFromParent(page);
  evicting_.assign(1, page);
  while (!evicting_.empty()) {
    const PageId current = evicting_.back();
    evicting_.pop_back();
    Page& state = pages_[current];
    for (PageId child = state.first_child; child != kNone; child = pages_[child].next_sibling) {
      evicting_.push_back(child);
    }
    CHECK(by_hash_.erase(state.hash) == 1);
    state.hashed = false;
    state.parent = state.first_child = kNone;
    ++num_evictions_;
    // A referenced page below (its sequence computed its own copy of the parent) only becomes
    // private.
    if (state.refs == 0) {
      RemoveFromLru(current);
      Free(current);
    }
  }
}

void PagePool::AppendToLru(PageId page) {
  Page& state = pages_[page];
  state.last_use = ++clock_;
  state.older = newest_;
  state.newer = kNone;
  (newest_ == kNone ? oldest_ : pages_[newest_].newer) = page;
  newest_ = page;
  ++num_evictable_;
  cold_evictable_units_ += ColdUnits(page);
}

void PagePool::RemoveFromLru(PageId page) {
  Page& state = pages_[page];
  (state.older == kNone ? oldest_ : pages_[state.older].newer) = state.newer;
  (state.newer == kNone ? newest_ : pages_[state.newer].older) = state.older;
  state.older = state.newer = kNone;
  CHECK(num_evictable_ > 0);
  --num_evictable_;
  cold_evictable_units_ -= ColdUnits(page);
}

void PagePool::LinkToParent(PageId page, PageId parent) {
  Page& state = pages_[page];
  state.parent = parent;
  state.previous_sibling = kNone;
  state.next_sibling = pages_[parent].first_child;
  if (state.next_sibling != kNone) {
    pages_[state.next_sibling].previous_sibling = page;
  }
  pages_[parent].first_child = page;
}

void PagePool::UnlinkFromParent(PageId page) {
  Page& state = pages_[page];
  if (state.parent == kNone) {
    return;
  }
  (state.previous_sibling == kNone ? pages_[state.parent].first_child
                                   : pages_[state.previous_sibling].next_sibling) =
      state.next_sibling;
  if (state.next_sibling != kNone) {
    pages_[state.next_sibling].previous_sibling = state.previous_sibling;
  }
  state.parent = state.next_sibling = state.previous_sibling = kNone;
}

}  // namespace thermocline
