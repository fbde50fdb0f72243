#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/base/status.h"
#include "scheduler/page_pool.h"
#include "scheduler/page_transfer.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_stats.h"
#include "scheduler/sequence.h"
#include "scheduler/step_plan.h"
#include "scheduler/tier_controller.h"

namespace thermocline {

struct SchedulerConfig {
  int max_num_seqs = 64;             // sequences that may run at once
  int max_num_batched_tokens = 512;  // tokens computed in one step, over all sequences
  // Prompt tokens in a step that other sequences wait for with their next one; 0: no such bound.
  int max_num_prefill_tokens_while_decoding = 0;
  int max_model_len = 2048;       // prompt plus output of one sequence
  int max_num_queued_reqs = 256;  // requests waiting for admission
  bool enable_prefix_caching = true;
  uint64_t prefix_hash_key = 0;  // random per process: see PrefixCache
  TierConfig tiers;
};

// What the scheduler has done so far and holds now.
// The full pages that tokens begin with, by name, as far as the store or the arena has them; and
// what has to be done for the store to have them all.
struct SavedPrefix {
  std::vector<ContentHash> pages;
  std::vector<PageTransfer> transfers;
};

// Decides who runs next, on which pages. Pure host logic: no tensors, no threads, no clock.
// Not thread-safe: only the engine thread calls it.
//
// A step gives every running sequence min(num_wanted, budget left) tokens, then admits waiting ones
// in order of arrival while their whole prompt fits beside what running prompts have still to come.
// Sequences that want one token (decoding) come first; what is left of the budget is split among
// prompts, the oldest getting half while others wait beside it, so that a long one delays no other.
// In a step in which somebody decodes, prompts get at most max_num_prefill_tokens_while_decoding,
// the oldest first, and none is admitted that would get nothing: with so few tokens a split would
// hold more memory and end no prompt sooner.
// Where pages are demoted, admission counts what a sequence will take once its pages are cold, and
// a step that will find too few hot places is preceded by moves that make them (ProposeMoves). When
// a running sequence finds no page all the same, the newest sequence is preempted: its pages are
// released, num_computed becomes 0, and it waits at the head of the queue; its tokens are kept, so
// greedy output continues as if nothing had happened. Choices 1.. of a request wait until choice 0
// has computed the prompt and then share its full pages.
//
// With a store outside the arena, hashed pages are saved there once they are released, and a prompt
// that begins with saved pages gets them back: it is admitted, with the pages in its table, and
// takes no part in steps until they have come. One that does not come is computed, with all after
// it. Under kAdaptive a page whose copy the store has may be archived; the copy stays until the
// page has woken, or is gone.
//
// A sequence takes references that accept as much loss as its request's fidelity does (see
// PagePool), and what it computes has the greatest loss of what it reads in that step.
class Scheduler {
 public:
  // The pool holds at least one sequence of max_model_len, so that a sequence alone can always go
  // on. Who calls it ends sequences that reach max_model_len. `index`: of the store outside the
  // arena, which outlives it; null: there is none.
  Scheduler(const SchedulerConfig& config, PagePool& pool, PageFinder* index = nullptr);

  // kResourceExhausted when the queue is full, kInvalidArgument when the request can never fit
  // (the prompt, and one token where it generates, over max_model_len or over the whole arena).
  Status Add(const std::shared_ptr<const Request>& request);

  // Ends one sequence, or all of a request's: its pages are released at once, or kept by the prefix
  // cache. Unknown ids are ignored (the sequence may just have ended).
  void Finish(RequestId id, int choice);
  void Cancel(RequestId id);

  // Moves to start before the next step is scheduled. Each has to come back to EndMoves; with
  // `wait`, before the next Schedule.
  MovePlan ProposeMoves();
  // Between steps. Sequences that read a page whose bytes were found corrupt are preempted: their
  // tokens are computed again, on other pages.
  void EndMoves(std::span<const FinishedMove> finished);
  TierController& tiers() { return tiers_; }
  const TierController& tiers() const { return tiers_; }
  // Computed tokens of a running sequence by the tier that they are in now.
  std::array<int, kNumTiers> TierTokens(const Sequence& sequence) const;
  // Those with pages, oldest first; valid as the sequences of a plan.
  std::vector<const Sequence*> RunningSequences() const;
  uint64_t num_steps() const { return num_steps_; }
  // Of the places of its pages.
  uint64_t HeldBytes(const Sequence& sequence) const;

  // Whether a running sequence reads a page that is not hot.
  bool ReadsCodedPages() const;
  // Before formats change: all pages are hot afterwards. Sequences that read another are preempted,
  // so that their tokens are computed again; cached ones are forgotten. Nothing may be moving or
  // being transferred.
  void DropCodedPages();

  // Transfers to start now: pages that admitted prompts wait for, in the order in which they have
  // to end, and pages to save. Each has to come back to EndTransfers, between steps.
  std::vector<PageTransfer> TakeTransfers();
  void EndTransfers(std::span<const FinishedTransfer> finished);
  // Now, however many transfers there are. Pages that the store has, or is just given, are not
  // among them; nor are those that move: end moves first.
  SavedPrefix SavePrefix(std::string_view tenant, std::span<const TokenId> tokens);
  // The names of all full pages that tokens begin with, wherever they are.
  std::vector<ContentHash> PrefixOf(std::string_view tenant, std::span<const TokenId> tokens) const;
  // All cached pages are to be saved: before the process ends.
  void SaveCachedPages();
  // Saves and loads that TakeTransfers has still to give, or that are in flight.
  bool has_transfers() const {
    return !loads_.empty() || !to_save_.empty() || pool_.num_transferring() > 0;
  }
  bool has_transfers_to_take() const {
    return !loads_.empty() || (!to_save_.empty() && num_saving_ < kMaxSavesInFlight);
  }
  // Those of prefetch_only requests whose pages have come; Finish releases them to the cache.
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
  // Enough to keep the copying thread at work between two steps; few enough that evicted pages that
  // are still being read hold little of the arena.
  static constexpr size_t kMaxSavesInFlight = 16;

  struct Entry {
    Sequence sequence;
    ContentHash chain;      // of the last page that was offered to the prefix cache
    size_t num_hashed = 0;  // pages offered
    size_t num_full = 0;    // pages that the pool knows to be full
    size_t num_reused = 0;  // pages at the table's start that it has not computed
    // Of the pages: what its references accept; their greatest loss in a step so far, and when that
    // was looked for, in PagePool::num_loss_changes.
    Tier accepted = kAnyTier;
    Tier loss = Tier::kHot;
    uint64_t loss_seen = 0;
    size_t num_loading = 0;      // pages at the table's end that come from the store
    bool waits_to_wake = false;  // pages of its prefix get their bytes back
    bool was_admitted = false;
    bool stays_hot = false;  // alone in the arena it did not fit in part demoted; all hot it does
  };
  using Entries = std::vector<std::unique_ptr<Entry>>;
  struct Backed {
    PageId page = 0;
    ContentHash hash;
  };

  // Of tokens among sequences: the first takes all it wants, or half of what is left while there
  // are others.
  enum class Sharing : uint8_t { kInTurn, kHalves };

  size_t NumPagesFor(size_t num_tokens) const;
  bool IsCapped(bool decodes) const;
  int PromptBudget(int num_left, bool decodes) const;
  void ScheduleRunning(bool decoding, Sharing sharing, int& budget, StepPlan& plan);
  // Adds tokens of one running sequence to the plan, preempting newer ones for pages. False when it
  // was itself the newest and had to go, or has to wait for moves.
  bool ScheduleTokens(Entry& entry, int num_tokens, int& budget, StepPlan& plan);
  int TakeFreePages(Entry& entry, int num_tokens);
  bool GrowPages(Entry& entry, size_t num_pages, int& budget, StepPlan& plan);
  void PreemptNewest(int& budget, StepPlan& plan);
  void Preempt(Entries::iterator it);
  void Admit(Sharing sharing, int& budget, StepPlan& plan);
  bool TryAdmit(Entry& entry);
  // Whether choice 0 has still to compute the prompt that `sequence` will share.
  static KvFidelity FidelityOf(const Entry& entry);
  bool WaitsForSibling(const Sequence& sequence) const;
  bool WaitsForLoad(const Sequence& sequence) const;
  void BeginLoads(Entry& entry);
  PageId NextLoading(const Entry& entry) const;
  void EndLoad(Entry& entry, bool ok);
  void SaveLater(PageId page);
  // As good a copy, and now: what was put there once may have been evicted since.
  bool StoreHas(PageId page) const;
  static bool Computes(const Entry& entry) {
    return entry.num_loading == 0 && !entry.waits_to_wake && !entry.sequence.request->prefetch_only;
  }
  void KeepBacked(MovePlan& plan);
  bool Back(PageId page);
  void ReleaseBackings();
  bool Wake(PageId page);
  void WakePages(Entry& entry);
  void EndWaits();
  void WakeJumped(const Sequence& sequence, std::span<const PageHeat> heat);
  void EndWake(const FinishedTransfer& end);
  PageTransfer SaveOf(PageId page);
  std::vector<PageId> SharedPages(const Entry& entry, ContentHash& chain);
  size_t NumReservedPages() const;
  bool HasRoomFor(const Entry& entry, size_t num_shared) const;
  bool FitsProjected(const Entry& entry) const;
  uint64_t ProjectedBytes(const Entry& entry) const;
  size_t HotPagesWanted() const;
  size_t NumPagesToBeHad() const;
  void NoteRead(Entry& entry, int num_tokens);
  void MarkFullPages(Entry& entry);
  void HashFullPages(Entry& entry);
  void ReleasePages(Entry& entry);
  void Remove(RequestId id, std::optional<int> choice);

  SchedulerConfig config_;
  PagePool& pool_;
  PrefixCache prefix_cache_;
  TierController tiers_;
  PageFinder* index_;
  std::vector<PageTransfer> loads_;  // begun, not yet taken
  std::deque<PageId> to_save_;       // hashed when they came here
  std::vector<bool> awaits_save_;    // by PageId: in to_save_
  size_t num_saving_ = 0;
  std::vector<Backed> backed_;  // pages whose copy is pinned: archived, or about to be
  Entries running_;             // oldest first
  std::deque<std::unique_ptr<Entry>> waiting_;  // next first; preempted ones are at the head
  // A sequence was preempted, for some pages may not cool as admission had counted on: until one
  // ends, what is admitted has to find room as things are.
  bool projection_failed_ = false;
  uint64_t num_arrived_ = 0;
  uint64_t num_steps_ = 0;
  SchedulerStats stats_;
};

}  // namespace thermocline
