#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/page_pool.h"
#include "scheduler/sequence.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

// A sequence in the scheduler's queue, waiting or running, with what only the scheduler knows of
// it. A waiting sequence has no pages.
struct QueueEntry {
  Sequence sequence;
  ContentHash chain;      // hash of the last page that was offered to the prefix cache
  size_t num_hashed = 0;  // pages offered
  size_t num_full = 0;    // pages that the pool knows to be full
  size_t num_reused = 0;  // pages at the table's start that this sequence has not computed
  // The most loss that the references to its pages accept, the greatest loss of what its steps have
  // read so far, and PagePool::num_loss_changes when that was last looked for.
  Tier accepted = kAnyTier;
  Tier loss = Tier::kHot;
  uint64_t loss_seen = 0;
  size_t num_loading = 0;      // pages at the table's end that are still to come from the store
  bool waits_to_wake = false;  // archived pages of its prefix are getting their exact bytes back
  bool was_admitted = false;
  bool stays_hot = false;  // alone in the arena it did not fit with pages demoted; all hot it does

  KvFidelity fidelity() const {
    return stays_hot ? KvFidelity::kExact : sequence.request->kv_fidelity;
  }
  // Whether it takes part in steps: not before all of its prefix can be read.
  bool computes() const {
    return num_loading == 0 && !waits_to_wake && !sequence.request->prefetch_only;
  }
};

using QueueEntries = std::vector<std::unique_ptr<QueueEntry>>;

}  // namespace thermocline
