#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/page_format.h"
#include "scheduler/page_pool.h"
#include "scheduler/scheduler_stats.h"
#include "scheduler/step_plan.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

struct TierConfig {
  KvPolicy policy = KvPolicy::kHot;
  // kAdaptive only: the part of its all-hot bytes that a sequence may take; 0: as memory allows.
  double budget = 0;
  int window_tokens = kWindowTokens;
  // kAdaptive only: pages that a store outside the arena has may be archived. The scheduler sets
  // it.
  bool archives = false;
};

// Moves that have begun in the pool and are to be started. `wait`: they have to end before the next
// step is scheduled, which then finds the room, or the forced tier, that they make.
struct ProposedMoves {
  std::vector<PendingMove> moves;
  bool wait = false;
};

// The same, as it is given to who copies the pages.
struct MovePlan {
  std::vector<PageMove> moves;
  bool wait = false;
};

// How many pages move and when; a TierPolicy says which. Under kAdaptive demotion starts when
// kStartUse of the arena is in use and goes on in the background until kStopUse, at a rate that a
// PI controller sets and the engine bounds (set_max_background_moves). When the next step would
// find too few hot places, pages are demoted at once, before anything is preempted. A few
// superblocks stay empty, so that a demotion always finds a place. It keeps the moves that have
// started until their copies have ended; those that never do are aborted with it. Not thread-safe:
// only the engine thread calls it.
class TierController {
 public:
  TierController(const TierConfig& config, PagePool& pool);

  bool demotes() const { return policy_ != nullptr; }
  bool archives() const {
    return config_.archives && pool_.arena().units_per_page(Tier::kArchive) > 0;
  }
  // Whether the policy lets a page that comes from outside be as it is.
  bool MayHold(Tier tier, Tier loss) const {
    return pool_.arena().units_per_page(tier) > 0 && tier <= Coldest() &&
           (demotes() || loss == Tier::kHot);
  }
  // What a sequence of so many pages takes once all that may be demoted has been. The page being
  // written stays hot, and with `in_prompt` the page in which a chunk ends.
  uint64_t ColdBytes(size_t num_pages, bool in_prompt, KvFidelity fidelity) const;
  // What admission may fill of the arena: all but the reserve and what lies free between pages.
  uint64_t BytesToFill() const;
  // `pages_wanted`: hot pages that the next step takes.
  ProposedMoves Propose(std::span<const SequencePages> sequences, uint64_t step,
                        size_t pages_wanted);
  // Keeps moves, of which those that are not to be made were taken out, until End is told of them;
  // returns what to copy.
  MovePlan Start(ProposedMoves proposed);
  PageMove Start(PendingMove pending);
  // Commits the started moves that were copied well; the pages of others stay where they were.
  // Returns pages whose bytes are
  // not what was written: nobody may read them any more.
  std::vector<PageId> End(std::span<const FinishedMove> finished, uint64_t step);
  // What the kernel saw of one sequence's pages in a step.
  void Observe(std::span<const PageId> pages, std::span<const PageHeat> heat, uint64_t step);

  // How many moves may be begun per call without being urgent: so that they take at most 5 % of the
  // time.
  void set_max_background_moves(double moves) { max_background_moves_ = moves; }
  const TierStats& stats() const { return stats_; }

 private:
  Tier Coldest() const;
  double Use() const;
  double BackgroundRate();
  void EvictCold(uint64_t bytes);
  void Begin(const std::vector<TierChange>& changes, size_t max_moves, ProposedMoves& plan);
  void Compact(ProposedMoves& plan);
  PendingMove TakeStarted(const PageMove& move);

  TierConfig config_;
  PagePool& pool_;
  std::unique_ptr<TierPolicy> policy_;  // null: nothing is demoted
  std::vector<PendingMove> started_;    // moves whose copies have not ended
  uint64_t num_reserved_ = 0;           // superblocks that are left empty
  double integral_ = 0;
  double credit_ = 0;  // of background moves, a fraction of one may be left over
  bool draining_ = false;
  double max_background_moves_ = 1;
  TierStats stats_;
};

}  // namespace thermocline
