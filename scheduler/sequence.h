#pragma once

#include <memory>
#include <vector>

#include "scheduler/page_table.h"
#include "scheduler/request.h"

namespace thermocline {

// One choice of one request: a list of tokens and a count of those whose K and V are in the cache.
// There is no prefill phase and no decode phase: each step computes some of num_wanted().
// Owned by the Scheduler; the engine reads it while the step that scheduled it runs.
struct Sequence {
  std::shared_ptr<const Request> request;  // shared: see Request
  int choice = 0;                          // 0 .. request->num_choices - 1
  uint64_t arrival = 0;  // order of admission requests; the newest is preempted first

  std::vector<TokenId> tokens;  // prompt, then accepted output
  int num_computed = 0;         // positions whose K and V are in the cache
  int num_cached =
      0;  // of the prompt, found in the prefix cache or in a sibling at first admission
  int num_restored = 0;  // of these, from the store outside the arena
  int num_preemptions = 0;
  bool reused_lossy = false;  // a step of it read a page of the prefix cache that was lossy
  PageTable pages;

  int num_prompt() const { return static_cast<int>(request->prompt.size()); }
  int num_output() const { return static_cast<int>(tokens.size()) - num_prompt(); }
  int num_wanted() const { return static_cast<int>(tokens.size()) - num_computed; }
};

}  // namespace thermocline
