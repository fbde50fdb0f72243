#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/base/status.h"
#include "scheduler/page_pool.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/request.h"
#include "scheduler/sequence.h"
#include "scheduler/step_plan.h"

namespace thermocline {

struct SchedulerConfig {
  int max_num_seqs = 64;             // sequences that may run at once
  int max_num_batched_tokens = 512;  // tokens computed in one step, over all sequences
  int max_model_len = 2048;          // prompt plus output of one sequence
  int max_num_queued_reqs = 256;     // requests waiting for admission
  bool enable_prefix_caching = true;
};

// What the scheduler has done so far and holds now.
struct SchedulerStats {
  int num_running = 0;  // sequences with pages
  int num_waiting = 0;  // sequences without
  uint64_t num_preemptions = 0;
  uint64_t prefix_query_tokens = 0;  // prompt tokens looked up in the prefix cache
  uint64_t prefix_hit_tokens = 0;    // of these, found
};

// Decides who runs next, on which pages. Pure host logic: no tensors, no threads, no clock.
// Not thread-safe: only the engine thread calls it.
//
// A step gives every running sequence min(num_wanted, budget left) tokens, then admits waiting ones
// in order of arrival while their whole prompt fits beside what running prompts have still to come.
// When a running sequence finds no page, the newest sequence is preempted: its pages are released,
// num_computed becomes 0, and it waits at the head of the queue; its tokens are kept, so greedy
// output continues as if nothing had happened.
// Choices 1.. of a request wait until choice 0 has computed the prompt and then share its full
// pages.
class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, PagePool& pool);

  // kResourceExhausted when the queue is full, kInvalidArgument when the request can never fit
  // (prompt + 1 over max_model_len or over the whole arena).
  Status Add(std::shared_ptr<const Request> request);

  // Ends one sequence, or all of a request's: its pages are released at once, or kept by the prefix
  // cache. Unknown ids are ignored (the sequence may just have ended).
  void Finish(RequestId id, int choice);
  void Cancel(RequestId id);

  // The next step; empty when nothing can run. Sequences in it stay valid until the next call of
  // any member but Update.
  StepPlan Schedule();

  // After the step ran: advances num_computed, appends accepted tokens, hashes pages that became
  // full into the prefix cache.
  void Update(const StepPlan& plan, const StepResult& result);

  bool has_work() const;
  SchedulerStats stats() const;
};

}  // namespace thermocline
