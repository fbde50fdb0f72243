#include "tests/scheduler/page_history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "tests/testing/page_pools.h"

namespace thermocline {

PageHistory::PageHistory(int num_units, uint32_t seed)
    : pool_(MakeArchivingPool(num_units)),
      losses_(pool_->page_map().size(), Tier::kHot),
      bytes_(static_cast<size_t>(num_units) * kSlots, 0),
      random_(seed) {}

void PageHistory::RunRandomOperation() {
  const uint32_t dice = random_() % 100;
  if (dice < 50) {
    Append();
  } else if (dice < 55) {
    Fork();
  } else if (dice < 60) {
    FindAgain();
  } else if (dice < 65) {
    Hash();
  } else if (dice < 68) {
    Cancel();
  } else if (dice < 79) {
    Begin();
  } else if (dice < 81) {
    BeginSave();
  } else if (dice < 83) {
    BeginLoad();
  } else if (dice < 86) {
    BeginWake();
  } else if (dice < 89) {
    Compact();
  } else if (dice < 97) {
    End();
  } else {
    EndTransfer();
  }
}

void PageHistory::ExpectNoReaderDeceived() const {
  for (const Sequence& sequence : sequences_) {
    for (const PageId page : sequence.pages) {
      ASSERT_LE(pool_->tier(page), sequence.accepted) << "page " << page;
      ASSERT_LE(losses_[page], sequence.accepted) << "page " << page;
      ASSERT_EQ(pool_->loss(page), losses_[page]) << "page " << page;
    }
  }
}

void PageHistory::ExpectContent() const {
  std::map<PageId, int> refs;
  for (const Sequence& sequence : sequences_) {
    for (const PageId page : sequence.pages) {
      ++refs[page];
    }
  }
  for (const auto& [page, count] : refs) {
    ASSERT_EQ(pool_->num_refs(page), count);
    ASSERT_EQ(pool_->accepted(page), Accepted(page));
    ExpectPage(page);
  }
  for (const auto& [hash, stamps] : stamps_of_hash_) {
    if (const auto page = pool_->Find({hash, hash})) {
      ASSERT_EQ(stamps_.at(*page), stamps);
      ASSERT_EQ(pool_->loss(*page), losses_[*page]);
      ExpectPage(*page);
    }
  }
  const Status audit = pool_->Audit();
  ASSERT_TRUE(audit.ok()) << audit.message();
}

void PageHistory::EndAll() {
  while (!moves_.empty()) {
    End();
  }
  while (!saves_.empty() || !loads_.empty() || !wakes_.empty()) {
    EndTransfer();
  }
  while (!sequences_.empty()) {
    Release(0);
  }
  for (uint64_t hash = 1; hash <= kNumHashes; ++hash) {
    if (const auto page = pool_->Find({hash, hash})) {
      pool_->Forget(*page);
    }
  }
  ASSERT_EQ(pool_->arena().bytes_free(), bytes_.size() / kSlots * kArenaUnitBytes);
  ASSERT_TRUE(pool_->Audit().ok());
}

Tier PageHistory::AnyAccepted() {
  constexpr std::array<Tier, 6> kAccepted = {Tier::kHot, Tier::kWarm, Tier::kCold,
                                             kAnyTier,   kAnyTier,    kAnyTier};
  return kAccepted[random_() % kAccepted.size()];
}

Tier PageHistory::Accepted(PageId page) const {
  Tier accepted = kAnyTier;
  for (const Sequence& sequence : sequences_) {
    if (std::find(sequence.pages.begin(), sequence.pages.end(), page) != sequence.pages.end()) {
      accepted = std::min(accepted, sequence.accepted);
    }
  }
  for (const Load& load : loads_) {
    if (load.page == page && !load.released) {
      accepted = std::min(accepted, load.accepted);
    }
  }
  return accepted;
}

void PageHistory::ExpectPage(PageId page) const {
  const std::vector<uint64_t>& stamps = stamps_.at(page);
  ForEachUnit(pool_->page_map()[page], [&](size_t begin) {
    for (size_t slot = 0; slot < stamps.size(); ++slot) {
      ASSERT_EQ(bytes_[begin + slot], stamps[slot]) << "page " << page << " slot " << slot;
    }
  });
}

// One more position of a sequence, or a new sequence.
void PageHistory::Append() {
  if (sequences_.empty() || (sequences_.size() < kMaxSequences && random_() % 8 == 0)) {
    sequences_.push_back({.accepted = AnyAccepted()});
  }
  Sequence& sequence = AnySequence();
  if (sequence.pages.empty() || sequence.num_in_last == kSlots) {
    const auto page = pool_->Allocate(sequence.accepted);
    if (!page.has_value()) {
      ++counts_.full_arenas;
      Release(sequences_.size() - 1);  // preempts the newest
      return;
    }
    sequence.pages.push_back(*page);
    sequence.num_in_last = 0;
    stamps_[*page].clear();
    losses_[*page] = Tier::kHot;
    corrupt_.erase(*page);
  }
  const PageId page = sequence.pages.back();
  if (pool_->is_moving(page)) {
    return;  // compaction moves what is being written, and no step runs meanwhile
  }
  ASSERT_EQ(pool_->tier(page), Tier::kHot);
  // It is computed from all pages before it, as they are now.
  for (const PageId read : sequence.pages) {
    losses_[page] = std::max(losses_[page], losses_[read]);
  }
  counts_.computed_lossy += losses_[page] > Tier::kHot ? 1 : 0;
  pool_->NoteComputed(page, losses_[page]);
  stamps_[page].push_back(++num_stamps_);
  ForEachUnit(pool_->page_map()[page],
              [&](size_t begin) { bytes_[begin + sequence.num_in_last] = num_stamps_; });
  if (++sequence.num_in_last == kSlots) {
    pool_->MarkFull(page, 0);
  }
}

size_t PageHistory::NumFull(const Sequence& sequence) {
  return sequence.pages.size() - (sequence.num_in_last < kSlots && !sequence.pages.empty());
}

// A sequence that begins with full pages of another.
void PageHistory::Fork() {
  if (sequences_.empty() || sequences_.size() >= kMaxSequences) {
    return;
  }
  const Sequence& from = AnySequence();
  if (const size_t num_full = NumFull(from); num_full > 0) {
    const size_t count = random_() % num_full + 1;
    Sequence sequence{.num_in_last = kSlots, .accepted = AnyAccepted()};
    for (size_t i = 0; i < count && losses_[from.pages[i]] <= sequence.accepted; ++i) {
      sequence.pages.push_back(from.pages[i]);
      pool_->AddRef(from.pages[i], sequence.accepted);
      ++counts_.shared;
    }
    if (!sequence.pages.empty()) {
      sequences_.push_back(std::move(sequence));
    }
  }
}

void PageHistory::FindAgain() {
  const uint64_t hash = random_() % kNumHashes + 1;
  const auto page = pool_->Find({hash, hash});
  const Tier accepted = AnyAccepted();
  if (page.has_value() && sequences_.size() < kMaxSequences && losses_[*page] <= accepted) {
    pool_->AddRef(*page, accepted);
    sequences_.push_back({.pages = {*page}, .num_in_last = kSlots, .accepted = accepted});
  }
}

void PageHistory::Hash() {
  if (sequences_.empty()) {
    return;
  }
  const Sequence& sequence = AnySequence();
  const size_t num_full = NumFull(sequence);
  if (num_full == 0) {
    return;
  }
  const size_t i = random_() % num_full;
  const PageId page = sequence.pages[i];
  const uint64_t hash = random_() % kNumHashes + 1;
  std::optional<PageId> parent;
  if (i > 0 && pool_->is_hashed(sequence.pages[i - 1])) {
    parent = sequence.pages[i - 1];
  }
  if (!pool_->is_hashed(page) && pool_->SetHash(page, {hash, hash}, parent)) {
    stamps_of_hash_[hash] = stamps_[page];
  }
}

void PageHistory::Cancel() {
  if (!sequences_.empty()) {
    ++counts_.cancelled;
    Release(random_() % sequences_.size());
  }
}

void PageHistory::Release(size_t index) {
  const std::vector<PageId> pages = sequences_[index].pages;
  const Tier accepted = sequences_[index].accepted;
  sequences_.erase(sequences_.begin() + static_cast<std::ptrdiff_t>(index));
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    counts_.cancelled_in_move += pool_->is_moving(*page) ? 1 : 0;
    pool_->Release(*page, accepted);
  }
}

void PageHistory::Begin() {
  if (sequences_.empty()) {
    return;
  }
  const Sequence& sequence = AnySequence();
  if (const size_t num_full = NumFull(sequence); num_full > 0) {
    const PageId page = sequence.pages[random_() % num_full];
    const auto to = static_cast<Tier>(random_() % 4);
    const bool refused = Accepted(page) < to;
    if (auto move = pool_->BeginMove(page, to)) {
      ASSERT_FALSE(refused);
      moves_.push_back(std::move(*move));
    }
    counts_.refused_begins += refused ? 1 : 0;
  }
}

void PageHistory::Compact() {
  const auto tier = static_cast<Tier>(random_() % 4);
  for (PendingMove& pending : pool_->BeginCompaction(tier, random_() % 3 + 1)) {
    ASSERT_EQ(pending.move().from.tier(), pending.move().to.tier());
    ++counts_.compactions;
    moves_.push_back(std::move(pending));
  }
}

// The copy is made at the end, when the source has seen all that can happen to it meanwhile.
void PageHistory::End() {
  if (moves_.empty()) {
    return;
  }
  const size_t index = random_() % moves_.size();
  PendingMove pending = std::move(moves_[index]);
  const PageMove move = pending.move();
  moves_.erase(moves_.begin() + static_cast<std::ptrdiff_t>(index));
  const uint32_t dice = random_() % 16;
  if (dice < 4) {
    // Half-way: rubbish in the new place.
    ForEachUnit(move.to, [&](size_t begin) { bytes_[begin] = ~uint64_t{0}; });
    if (dice == 0 && move.from.tier() != Tier::kHot) {
      Corrupt(move.page);
    }
    ++counts_.failures;
    return;  // aborts it
  }
  ForEachUnit(move.to, [&](size_t begin) {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(move.from.unit() * kSlots), kSlots,
                bytes_.begin() + static_cast<std::ptrdiff_t>(begin));
  });
  const Tier loss = std::max(losses_[move.page], move.to.tier());
  const bool refused = Accepted(move.page) < loss;
  ASSERT_EQ(std::move(pending).Commit(0), !refused);
  ++(refused ? counts_.refused_commits : counts_.commits);
  losses_[move.page] = refused ? losses_[move.page] : loss;
}

// Nobody may read the page any more.
void PageHistory::Corrupt(PageId page) {
  ++counts_.corrupt;
  corrupt_.insert(page);
  pool_->Pin(page);
  pool_->Forget(page);
  for (size_t i = sequences_.size(); i-- > 0;) {
    const std::vector<PageId>& pages = sequences_[i].pages;
    if (std::find(pages.begin(), pages.end(), page) != pages.end()) {
      Release(i);
    }
  }
  ForEachUnit(pool_->page_map()[page], [&](size_t begin) { bytes_[begin] = ~uint64_t{0}; });
}

}  // namespace thermocline
