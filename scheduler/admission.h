#pragma once

#include <cstddef>
#include <cstdint>

#include "scheduler/page_pool.h"
#include "scheduler/queue_entry.h"
#include "scheduler/scheduler_config.h"

namespace thermocline {

// Says whether the arena has room for a sequence beside those that run. It reads the state of the
// scheduler that owns it and changes none.
//
// Without demotion a sequence has room when its tokens fit beside all tokens that running sequences
// have. With demotion its *projection* counts: the bytes that all of them take once every page is
// as cold as it may become.
class Admission {
 public:
  // All outlive it. `running`: the sequences with pages.
  Admission(const SchedulerConfig& config, const PagePool& pool, const TierController& tiers,
            const QueueEntries& running)
      : config_(config), pool_(pool), tiers_(tiers), running_(running) {}

  // Whether `entry` may be admitted, `num_shared` of whose pages are there. `projects`: cooling can
  // be counted on; false once it has let a sequence down. A sequence alone always has room.
  bool HasRoomFor(const QueueEntry& entry, size_t num_shared, bool projects) const;

  // An upper bound of the hot pages that the next step allocates: for the next tokens of running
  // sequences, and for `next`, the first of the waiting. Null: none waits.
  size_t HotPagesWanted(const QueueEntry* next) const;

  // Whether everything that runs and `entry` fit as they are, or once they are as cold as they may
  // become.
  bool FitsProjected(const QueueEntry& entry) const;
  // What one sequence takes then, with the output that it is expected to have. A page that several
  // sequences read is counted for each.
  uint64_t ProjectedBytes(const QueueEntry& entry) const;

 private:
  size_t NumAvailablePages() const;
  size_t NumReservedPages() const;

  const SchedulerConfig& config_;
  const PagePool& pool_;
  const TierController& tiers_;
  const QueueEntries& running_;
};

}  // namespace thermocline
