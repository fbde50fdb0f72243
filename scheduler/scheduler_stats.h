#pragma once

#include <array>
#include <cstdint>

#include "kernels/page_format.h"

namespace thermocline {

// What the scheduler counts: its queue, and what came of looking for pages.
struct SchedulerStats {
  int num_running = 0;  // sequences with pages
  int num_waiting = 0;  // sequences without
  uint64_t num_preemptions = 0;
  uint64_t prefix_query_tokens = 0;  // prompt tokens looked up in the prefix cache
  uint64_t prefix_hit_tokens = 0;    // of these, found, in the arena or in the store
  uint64_t restored_tokens = 0;      // whose pages came from the store
  uint64_t num_woken = 0;            // archived pages that got their exact bytes back
  uint64_t num_unwoken = 0;          // times that this could not be: no place, or no copy
};

// What has become of page moves.
struct TierStats {
  std::array<uint64_t, kNumTiers> moves{};  // ended well, by the tier moved to
  uint64_t compactions = 0;                 // of these, inside one tier
  uint64_t not_finite = 0;                  // failed: by reason
  uint64_t corrupt = 0;
  uint64_t device_errors = 0;
  uint64_t refused = 0;  // copied well, but a reader had come that the new tier is too cold for
};

}  // namespace thermocline
