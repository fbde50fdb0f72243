#include <algorithm>
#include <vector>

#include "scheduler/scheduler.h"

// Archived pages: none without an exact copy in the store, which stays there for as long as the
// page is archived; and the two ways in which it gets its bytes back, when attention turns to it
// and when its conversation goes on.

namespace thermocline {
namespace {

// A page stands out when its energy is so many times the median of the archived ones beside it.
constexpr float kJump = 4;
constexpr int kJumpSamples = 2;  // in a row
// Below it even a page that stands out moves no output: mass x largest weight of the head that
// attends to it most.
constexpr float kLeastEnergy = 1e-3F;

}  // namespace

// Of moves to the archive only those stay whose page has a pinned copy, cold at worst.
void Scheduler::KeepBacked(MovePlan& plan) {
  ReleaseBackings();
  if (!tiers_.archives()) {
    return;
  }
  std::erase_if(plan.moves, [&](const PageMove& move) {
    if (move.to.tier() != Tier::kArchive || move.from.tier() == Tier::kArchive || Back(move.page)) {
      return false;
    }
    pool_.AbortMove(move);
    return true;
  });
}

bool Scheduler::Back(PageId page) {
  if (!pool_.is_hashed(page)) {
    return false;
  }
  const ContentHash hash = pool_.hash(page);
  const std::optional<PageFinder::Info> info = index_->Find(hash);
  if (!info.has_value() || info->tier > Tier::kCold) {
    return false;
  }
  index_->SetPinned(hash, true);
  backed_.push_back({page, hash});
  return true;
}

// Copies of pages that are no longer archived, woken or freed, may be evicted again.
void Scheduler::ReleaseBackings() {
  std::erase_if(backed_, [&](const Backed& backed) {
    const bool archived = pool_.tier(backed.page) == Tier::kArchive || pool_.is_moving(backed.page);
    if (archived && pool_.is_hashed(backed.page) && pool_.hash(backed.page) == backed.hash) {
      return false;
    }
    index_->SetPinned(backed.hash, false);
    return true;
  });
}

// Starts bringing back the exact bytes of an archived page.
bool Scheduler::Wake(PageId page) {
  if (index_ == nullptr || !pool_.is_hashed(page)) {
    return false;
  }
  const std::optional<PageFinder::Info> info = index_->Find(pool_.hash(page));
  if (!info.has_value() || info->tier >= Tier::kArchive) {
    return false;
  }
  const std::optional<PageEntry> place = pool_.BeginWake(page, info->tier);
  if (!place.has_value()) {
    return false;
  }
  loads_.push_back({.kind = PageTransfer::Kind::kWake,
                    .page = page,
                    .place = *place,
                    .content = prefix_cache_.ContentOf(page)});
  return true;
}

// A new turn of a conversation reads exact pages: it computes nothing before they have come.
void Scheduler::WakePages(Entry& entry) {
  for (const PageId page : entry.sequence.pages.ids()) {
    if (pool_.tier(page) != Tier::kArchive) {
      continue;
    }
    entry.waits_to_wake |= pool_.is_waking(page) || Wake(page);
    stats_.num_unwoken += pool_.is_waking(page) ? 0 : 1;
  }
}

void Scheduler::EndWaits() {
  for (const std::unique_ptr<Entry>& entry : running_) {
    if (entry->waits_to_wake) {
      const std::span<const PageId> pages = entry->sequence.pages.ids();
      entry->waits_to_wake = std::any_of(pages.begin(), pages.end(),
                                         [&](PageId page) { return pool_.is_waking(page); });
    }
  }
}

// Pages whose energy has jumped among the archived ones of a sequence, after a sample.
void Scheduler::WakeJumped(const Sequence& sequence, std::span<const PageHeat> heat) {
  const size_t num_pages = std::min(heat.size(), sequence.pages.size());
  std::vector<float> energies;
  for (size_t i = 0; i < num_pages; ++i) {
    if (pool_.tier(sequence.pages[i]) == Tier::kArchive) {
      energies.push_back(heat[i].peak);
    }
  }
  if (energies.empty()) {
    return;
  }
  const auto middle = energies.begin() + static_cast<std::ptrdiff_t>(energies.size() / 2);
  std::nth_element(energies.begin(), middle, energies.end());
  const float threshold = std::max(kLeastEnergy, kJump * *middle);
  for (size_t i = 0; i < num_pages; ++i) {
    const PageId page = sequence.pages[i];
    if (pool_.tier(page) != Tier::kArchive) {
      continue;
    }
    int& num_jumps = pool_.heat(page).num_jumps;
    num_jumps = heat[i].peak > threshold ? num_jumps + 1 : 0;
    if (num_jumps >= kJumpSamples && !pool_.is_waking(page)) {
      num_jumps = 0;
      stats_.num_unwoken += Wake(page) ? 0 : 1;
    }
  }
}

void Scheduler::EndWake(const FinishedTransfer& end) {
  const PageId page = end.transfer.page;
  if (!end.ok) {
    pool_.AbortWake(page);
    ++stats_.num_unwoken;
    return;
  }
  if (!pool_.EndWake(page, end.transfer.content.loss, end.transfer.content.checksum)) {
    ++stats_.num_unwoken;
    return;
  }
  pool_.heat(page).move_step = num_steps_;
  pool_.heat(page).num_jumps = 0;
  ++stats_.num_woken;
}

}  // namespace thermocline
