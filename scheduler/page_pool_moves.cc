#include <algorithm>
#include <utility>

#include "kernels/base/check.h"
#include "scheduler/page_pool.h"

// PagePool: pages that change their place, between tiers or inside one, or by way of a store.

namespace thermocline {

bool PendingMove::Commit(uint64_t checksum) && {
  CHECK(pool_ != nullptr);
  return std::exchange(pool_, nullptr)->CommitMove(move_, checksum);
}

void PendingMove::Abort() {
  if (pool_ != nullptr) {
    std::exchange(pool_, nullptr)->AbortMove(move_);
  }
}

std::optional<PendingMove> PagePool::BeginMove(PageId page, Tier to, uint64_t keep_empty) {
  Page& state = pages_[page];
  CHECK(state.allocated && state.full);
  if ((state.pinned && to != tier(page)) || to < tier(page) || !Accepts(page, to)) {
    return std::nullopt;
  }
  return StartMove(page, to, keep_empty);
}

std::optional<PendingMove> PagePool::StartMove(PageId page, Tier to, uint64_t keep_empty) {
  Page& state = pages_[page];
  if (state.work != Work::kNone) {
    return std::nullopt;
  }
  const std::optional<PageEntry> place = arena_.Allocate(to, keep_empty);
  if (!place.has_value()) {
    return std::nullopt;
  }
  SetWork(page, Work::kMove);
  state.move_to = *place;
  ++num_moving_;
  return PendingMove(*this, {.page = page,
                             .generation = state.generation,
                             .from = page_map_[page],
                             .to = *place,
                             .checksum = state.checksum,
                             .first_position = state.first_position});
}

bool PagePool::CommitMove(const PageMove& move, uint64_t checksum) {
  const Tier loss = std::max(pages_[move.page].loss, move.to.tier());
  if (!Accepts(move.page, loss)) {
    AbortMove(move);
    return false;
  }
  SetLoss(move.page, loss);
  pages_[move.page].checksum = checksum;
  EndMove(move, move.to, move.from);
  return true;
}

void PagePool::EndMove(const PageMove& move, PageEntry kept, PageEntry given_back) {
  Page& state = pages_[move.page];
  CHECK(state.work == Work::kMove && state.generation == move.generation);
  CHECK(page_map_[move.page] == move.from && state.move_to == move.to);
  SwitchPlace(move.page, kept, given_back);
  SetWork(move.page, Work::kNone);
  --num_moving_;
  if (state.refs == 0 && !state.hashed) {
    Free(move.page);
  }
}

bool PagePool::BeginSave(PageId page) {
  Page& state = pages_[page];
  CHECK(state.allocated && state.full);
  if (state.work != Work::kNone) {
    return false;
  }
  SetWork(page, Work::kSave);
  ++num_transferring_;
  return true;
}

void PagePool::EndSave(PageId page, bool saved) {
  pages_[page].saved |= saved;
  EndTransfer(page, Work::kSave);
}

std::optional<PageEntry> PagePool::AllocateEvicting(Tier tier) {
  for (;;) {
    if (const std::optional<PageEntry> place = arena_.Allocate(tier, num_reserved_superblocks_)) {
      return place;
    }
    if (oldest_ == kNone) {
      return std::nullopt;
    }
    Evict(oldest_);
  }
}

std::optional<PageId> PagePool::BeginLoad(Tier tier, Tier accepted) {
  if (free_ids_.empty()) {
    return std::nullopt;
  }
  const std::optional<PageEntry> place = AllocateEvicting(tier);
  if (!place.has_value()) {
    return std::nullopt;
  }
  const PageId page = TakePlace(*place, accepted);
  SetWork(page, Work::kLoad);
  ++num_transferring_;
  return page;
}

bool PagePool::EndLoad(PageId page, Tier loss, uint64_t checksum) {
  const Tier worst = std::max(loss, tier(page));
  if (!Accepts(page, worst)) {
    AbortLoad(page);
    return false;
  }
  SetLoss(page, worst);
  pages_[page].checksum = checksum;
  pages_[page].saved = true;
  EndTransfer(page, Work::kLoad);
  return true;
}

void PagePool::AbortLoad(PageId page) { EndTransfer(page, Work::kLoad); }

std::optional<PageEntry> PagePool::BeginWake(PageId page, Tier tier) {
  Page& state = pages_[page];
  CHECK(state.allocated && this->tier(page) == Tier::kArchive);
  if (state.work != Work::kNone) {
    return std::nullopt;
  }
  SetWork(page, Work::kWake);  // before anything is evicted, so that its place stays its own
  const std::optional<PageEntry> place = AllocateEvicting(tier);
  if (!place.has_value()) {
    SetWork(page, Work::kNone);
    if (state.refs == 0 && !state.hashed) {
      Free(page);  // it was evicted with the others
    }
    return std::nullopt;
  }
  state.move_to = *place;
  ++num_transferring_;
  return place;
}

bool PagePool::EndWake(PageId page, Tier loss, uint64_t checksum) {
  Page& state = pages_[page];
  const Tier worst = std::max(loss, state.move_to.tier());
  if (!Accepts(page, worst)) {
    AbortWake(page);
    return false;
  }
  SetLoss(page, worst);
  state.checksum = checksum;
  SwitchPlace(page, state.move_to, page_map_[page]);
  EndTransfer(page, Work::kWake);
  return true;
}

void PagePool::AbortWake(PageId page) {
  SwitchPlace(page, page_map_[page], pages_[page].move_to);
  EndTransfer(page, Work::kWake);
}

void PagePool::SwitchPlace(PageId page, PageEntry kept, PageEntry given_back) {
  const bool is_evictable = pages_[page].refs == 0 && pages_[page].hashed;
  cold_evictable_units_ -= is_evictable ? ColdUnits(page) : 0;
  page_map_[page] = kept;
  cold_evictable_units_ += is_evictable ? ColdUnits(page) : 0;
  page_at_[given_back.unit()] = kNone;
  page_at_[kept.unit()] = page;
  arena_.Free(given_back);
  ++pages_[page].generation;
}

void PagePool::EndTransfer(PageId page, Work work) {
  Page& state = pages_[page];
  CHECK(state.work == work);
  SetWork(page, Work::kNone);
  --num_transferring_;
  if (state.refs == 0 && !state.hashed) {
    Free(page);
  }
}

std::vector<PendingMove> PagePool::BeginCompaction(Tier tier, size_t max_moves) {
  std::vector<PendingMove> moves;
  const auto sparse = arena_.SparseSuperblock(tier);
  if (!sparse.has_value()) {
    return moves;
  }
  const auto [begin, end] = *sparse;
  for (uint32_t unit = begin; unit < end && unit < page_at_.size() && moves.size() < max_moves;
       ++unit) {
    const PageId page = page_at_[unit];
    if (page == kNone) {
      continue;
    }
    if (std::optional<PendingMove> move = StartMove(page, tier)) {
      moves.push_back(std::move(*move));
    }
  }
  return moves;
}

}  // namespace thermocline
