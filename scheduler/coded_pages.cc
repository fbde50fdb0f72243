#include <algorithm>

#include "kernels/base/check.h"
#include "scheduler/scheduler.h"

// What becomes of pages that are not hot when formats change.

namespace thermocline {
namespace {

bool HasCodedPage(const PagePool& pool, const Sequence& sequence) {
  const std::span<const PageId> pages = sequence.pages.ids();
  return std::any_of(pages.begin(), pages.end(),
                     [&](PageId page) { return pool.tier(page) > Tier::kHot; });
}

}  // namespace

bool Scheduler::ReadsCodedPages() const {
  return std::any_of(running_.begin(), running_.end(),
                     [&](const std::unique_ptr<QueueEntry>& entry) {
                       return HasCodedPage(pool_, entry->sequence);
                     });
}

void Scheduler::DropCodedPages() {
  CHECK(pool_.num_moving() == 0 && pool_.num_transferring() == 0 && !traffic_.has_begun());
  // From the newest on, so that they wait in the order in which they came.
  for (auto it = running_.end(); it != running_.begin();) {
    if (HasCodedPage(pool_, (*--it)->sequence)) {
      Preempt(it);
      it = running_.end();
    }
  }
  for (const PageId page : pool_.OldestCached(pool_.num_evictable())) {
    // Unless it went with one above it.
    if (pool_.is_hashed(page) && pool_.tier(page) > Tier::kHot) {
      pool_.Forget(page);
    }
  }
  traffic_.ReleasePins();
}

}  // namespace thermocline
