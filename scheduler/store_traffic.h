#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "scheduler/page_pool.h"
#include "scheduler/page_transfer.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/sequence.h"
#include "scheduler/step_plan.h"
#include "scheduler/tier_controller.h"

namespace thermocline {

// The full pages that tokens begin with, by name, as far as the store or the arena has them; and
// the transfers after which the store has them all.
struct SavedPrefix {
  std::vector<ContentHash> pages;
  std::vector<PageTransfer> transfers;
};

// What goes between the arena and a store outside it: *saves* of pages that are in the prefix
// cache, *loads* of pages that a prompt begins with, and *wakes*, which bring the exact bytes of an
// archived page back from its copy. It decides which pages are transferred and keeps their state in
// the pool; the bytes are the engine's to copy. Owned by the Scheduler. Not thread-safe: only the
// engine thread calls it.
//
// A page is archived only while the store holds a copy of it that is cold at worst. That copy is
// pinned until the page has woken, or is gone.
class StoreTraffic {
 public:
  // All outlive it. `store`: null when there is none; then nothing is ever transferred, and what
  // needs a store may not be called.
  StoreTraffic(PagePool& pool, const PrefixCache& prefix_cache, const TierController& tiers,
               PageFinder* store);

  // Queues a page to be saved, unless it cannot be found again or the store has as good a copy.
  void SaveLater(PageId page);
  void SaveCachedPages();  // all of them
  // Saves now what the store lacks of the pages with these names, in order. Needs a store.
  SavedPrefix SavePrefix(std::span<const ContentHash> names);

  // Starts loading the pages that follow those that `sequence` has, whose last has the hash
  // `chain`, as far as the store has them and with no more loss than `accepted`. They are returned
  // in order, with a reference each.
  std::vector<PageId> BeginLoads(const Sequence& sequence, ContentHash chain, Tier accepted);

  // Takes out, and so aborts, the moves to the archive whose page has no copy to wake from. The
  // copies of the others are pinned from now on.
  void KeepBacked(std::vector<PendingMove>& moves);
  // Copies of pages that are no longer archived, woken or freed, may be evicted again.
  void ReleasePins();
  // Starts bringing back all archived ones of these pages. Whether any is being woken now.
  bool WakeAll(std::span<const PageId> pages);
  // After a sample of attention energies, by page: starts waking the pages of a sequence whose
  // energy has jumped among its archived ones.
  void WakeJumped(std::span<const PageId> pages, std::span<const PageHeat> heat);

  // The transfers to start now: loads and wakes in the order in which they have to end, then saves
  // as far as they may be in flight.
  std::vector<PageTransfer> Take();
  // Ends one of them, between steps: whether the page's bytes are where they were to go. Of a load
  // that failed the page is not full, and has to be released.
  bool End(const FinishedTransfer& end, uint64_t step);

  // Transfers that Take has still to give, or that are in flight.
  bool has_transfers() const {
    return !begun_.empty() || !to_save_.empty() || pool_.num_transferring() > 0;
  }
  bool has_transfers_to_take() const {
    return !begun_.empty() || (!to_save_.empty() && num_saving_ < kMaxSavesInFlight);
  }
  bool has_begun() const { return !begun_.empty(); }  // loads and wakes that are not yet taken
  uint64_t num_woken() const { return num_woken_; }
  uint64_t num_unwoken() const { return num_unwoken_; }

 private:
  // Enough to keep the copying thread at work between two steps; few enough that evicted pages that
  // are still being read hold little of the arena.
  static constexpr size_t kMaxSavesInFlight = 16;

  struct PinnedCopy {
    PageId page = 0;
    StorePin pin;
  };

  bool StoreHas(PageId page) const;
  PageTransfer BeginSave(PageId page);
  bool PinCopy(PageId page);
  bool Wake(PageId page);
  bool EndWake(const FinishedTransfer& end, uint64_t step);

  PagePool& pool_;
  const PrefixCache& prefix_cache_;
  const TierController& tiers_;
  PageFinder* store_;
  std::vector<PageTransfer> begun_;  // loads and wakes, not yet taken
  std::deque<PageId> to_save_;       // in the prefix cache when they were queued
  std::vector<bool> awaits_save_;    // by PageId: in to_save_
  size_t num_saving_ = 0;            // saves in flight
  std::vector<PinnedCopy> pinned_;   // copies of pages that are archived, or about to be
  uint64_t num_woken_ = 0;
  uint64_t num_unwoken_ = 0;
};

}  // namespace thermocline
