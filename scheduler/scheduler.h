#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "scheduler/admission.h"
#include "scheduler/page_pool.h"
#include "scheduler/page_tables.h"
#include "scheduler/page_transfer.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/queue_entry.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_config.h"
#include "scheduler/scheduler_stats.h"
#include "scheduler/sequence.h"
#include "scheduler/step_plan.h"
#include "scheduler/store_traffic.h"
#include "scheduler/tier_controller.h"

namespace thermocline {

// Decides who runs next, on which pages. Pure host logic: no tensors, no threads, no clock.
// Not thread-safe: only the engine thread calls it. It keeps the queue, the step and preemption;
// four parts do the rest:
//   PageTables      pages of a sequence: shared, allocated, full, released
//   Admission       whether a waiting sequence has room beside the running ones
//   TierController  how many pages change their tier, and when
//   StoreTraffic    pages that go to a store outside the arena, and come back from it
//
// **A step** gives every running sequence min(num_wanted, budget left) tokens, then admits waiting
// ones in order of arrival while they have room. Sequences that want one token (decoding) come
// first. What is left of the budget is split among prompts, the oldest getting half while others
// wait beside it, so that a long one delays no other. In a step in which somebody decodes, prompts
// get at most max_num_prefill_tokens_while_decoding, the oldest first, and none is admitted that
// would get nothing: with so few tokens a split would hold more memory and end no prompt sooner.
//
// **Preemption.** When a running sequence finds no page, the newest sequence is preempted: its
// pages are released, num_computed becomes 0, and it waits at the head of the queue. Its tokens are
// kept, so greedy output continues as if nothing had happened.
//
// **A page move** brings one full page to another tier, or to another slot of its own tier. The
// page's bytes are copied, in the encoding of the new tier, to a slot reserved in the arena; then
// the page's entry in the page map is switched to that slot, and the old one is free. The page
// keeps its id, so no page table changes, and everyone who shares the page reads the new bytes. The
// scheduler says which pages move (ProposeMoves), the engine copies them while steps run, and
// between steps the scheduler switches the entries (EndMoves). A move to a colder tier frees
// memory; that is how room for new pages is made before anything is preempted.
//
// **Choices** 1.. of a request wait until choice 0 has computed the prompt and then share its full
// pages.
//
// **A store** outside the arena gets hashed pages once they are released, and a prompt that begins
// with saved pages gets them back: it is admitted, with the pages in its table, and takes no part
// in steps until they have come. One that does not come is computed, with all after it.
//
// **Fidelity.** A sequence takes references that accept as much loss as its request's fidelity does
// (see PagePool), and what it computes has the greatest loss of what it reads in that step.
class Scheduler {
 public:
  // The pool holds at least one sequence of max_model_len, so that a sequence alone can always go
  // on. The caller ends sequences that reach max_model_len. `store`: finds pages in the store
  // outside the arena, and outlives the scheduler; null: there is none.
  Scheduler(const SchedulerConfig& config, PagePool& pool, PageFinder* store = nullptr);
  Scheduler(const Scheduler&) = delete;  // its parts refer to each other
  Scheduler& operator=(const Scheduler&) = delete;

  // kResourceExhausted when the queue is full, kInvalidArgument when the request can never fit
  // (the prompt, and one token where it generates, over max_model_len or over the whole arena).
  Status Add(const std::shared_ptr<const Request>& request);

  // Ends one sequence, or all of a request's: its pages are released at once, or kept by the prefix
  // cache. Unknown ids are ignored (the sequence may just have ended).
  void Finish(RequestId id, int choice);
  void Cancel(RequestId id);

  // Moves to start before the next step is scheduled. EndMoves is told of each, with `wait` before
  // the next Schedule; one that it is never told of is aborted with the scheduler.
  MovePlan ProposeMoves();
  // Between steps: the moves whose copies have ended, well or not. Sequences that read a page whose
  // bytes were found corrupt are preempted: their tokens are computed again, on other pages.
  void EndMoves(std::span<const FinishedMove> finished);
  TierController& tiers() { return tiers_; }
  const TierController& tiers() const { return tiers_; }
  // Computed tokens of a running sequence by the tier that they are in now.
  std::array<int, kNumTiers> TierTokens(const Sequence& sequence) const;
  // The sequences with pages, oldest first; valid as the sequences of a plan.
  std::vector<const Sequence*> RunningSequences() const;
  uint64_t num_steps() const { return num_steps_; }
  // Bytes of the arena that a sequence's pages take.
  uint64_t HeldBytes(const Sequence& sequence) const;

  // Whether a running sequence reads a page that is not hot.
  bool ReadsCodedPages() const;
  // Before formats change: all pages are hot afterwards. Sequences that read another are preempted,
  // so that their tokens are computed again; cached ones are forgotten. Nothing may be moving or
  // being transferred.
  void DropCodedPages();

  // Transfers to start now: pages that admitted prompts wait for, in the order in which they have
  // to end, and pages to save. Each has to come back to EndTransfers, between steps.
  std::vector<PageTransfer> TakeTransfers() { return traffic_.Take(); }
  void EndTransfers(std::span<const FinishedTransfer> finished);
  // Saves to start now, however many there are. Pages that the store has, or is just given, are not
  // among them; nor are those that move: end moves first.
  SavedPrefix SavePrefix(std::string_view tenant, std::span<const TokenId> tokens) {
    return traffic_.SavePrefix(prefix_cache_.NamesOf(tenant, tokens));
  }
  // The names of all full pages that tokens begin with, wherever they are.
  std::vector<ContentHash> PrefixOf(std::string_view tenant,
                                    std::span<const TokenId> tokens) const {
    return prefix_cache_.NamesOf(tenant, tokens);
  }
  // All cached pages are to be saved: before the process ends.
  void SaveCachedPages() { traffic_.SaveCachedPages(); }
  // Saves and loads that TakeTransfers has still to give, or that are in flight.
  bool has_transfers() const { return traffic_.has_transfers(); }
  bool has_transfers_to_take() const { return traffic_.has_transfers_to_take(); }
  // Sequences of prefetch_only requests whose pages have come; Finish releases these to the cache.
  std::vector<const Sequence*> PrefetchedSequences() const;

  // The next step; empty when nothing can run. Sequences in it stay valid until the next call of
  // any member but Update.
  StepPlan Schedule();

  // After the step ran: advances num_computed, appends accepted tokens, hashes pages that became
  // full into the prefix cache.
  void Update(const StepPlan& plan, const StepResult& result);

  bool has_work() const { return !running_.empty() || !waiting_.empty(); }
  SchedulerStats stats() const;

 private:
  // How tokens are shared among sequences: the first takes all it wants, or half of what is left
  // while there are others.
  enum class Sharing : uint8_t { kInTurn, kHalves };

  void EndWaits();
  void ScheduleRunning(bool decoding, Sharing sharing, int& budget, StepPlan& plan);
  // Adds tokens of one running sequence to the plan, preempting newer ones for pages. False when it
  // was itself the newest and had to go, or has to wait for moves.
  bool ScheduleTokens(QueueEntry& entry, int num_tokens, int& budget, StepPlan& plan);
  bool GrowPages(QueueEntry& entry, size_t num_pages, int& budget, StepPlan& plan);
  void PreemptNewest(int& budget, StepPlan& plan);
  void Preempt(QueueEntries::iterator it);
  void Admit(Sharing sharing, int& budget, StepPlan& plan);
  bool TryAdmit(QueueEntry& entry);
  const Sequence* RunningLeader(const Sequence& sequence) const;
  // Whether choice 0 has still to compute the prompt that `sequence` will share.
  bool WaitsForSibling(const Sequence& sequence) const;
  // Whether another sequence is about to have pages that `sequence` could share.
  bool WaitsForLoad(const Sequence& sequence) const;
  PageId NextLoading(const QueueEntry& entry) const;
  void EndLoad(QueueEntry& entry, bool ok);
  void ReleasePages(QueueEntry& entry);
  void Remove(RequestId id, std::optional<int> choice);

  SchedulerConfig config_;
  PagePool& pool_;
  PrefixCache prefix_cache_;
  PageTables tables_;
  TierController tiers_;
  StoreTraffic traffic_;
  QueueEntries running_;  // oldest first
  Admission admission_;
  std::deque<std::unique_ptr<QueueEntry>> waiting_;  // next first; preempted ones are at the head
  // A sequence was preempted, for some pages may not cool as admission had counted on: until one
  // ends, what is admitted has to find room as things are.
  bool projection_failed_ = false;
  uint64_t num_arrived_ = 0;
  uint64_t num_steps_ = 0;
  SchedulerStats stats_;
};

}  // namespace thermocline
