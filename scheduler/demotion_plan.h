#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/page_format.h"
#include "scheduler/page_pool.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

// The pages that a policy may demote, each with the sequences that read it. One object is filled
// anew for each plan and keeps its arrays, so that planning allocates nothing after warm-up: it is
// done on the engine thread, between steps, for every page that is read.
class DemotionCandidates {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Candidate {
    PageId page = 0;
    uint32_t first_reader = kNone;  // index of a sequence; kNone: nobody reads it
    uint32_t more_readers = kNone;  // into readers_: the others
    uint32_t num_readers = 0;
    Tier now = Tier::kHot;
    Tier tier = Tier::kHot;     // as planned so far
    Tier coldest = Tier::kHot;  // that it may be moved to
  };

  // All pages of `sequences`, in the order in which they are first met. `coldest`: that any page
  // may go to; `recent`: that pages of the recent window may.
  void Fill(const PagePool& pool, std::span<const SequencePages> sequences, Tier coldest,
            Tier recent);
  // The least recently used pages that nobody reads, `max_pages` at most: cold at worst.
  void AddIdle(const PagePool& pool, Tier coldest, size_t max_pages);

  std::vector<Candidate>& all() { return all_; }
  const std::vector<Candidate>& all() const { return all_; }
  // The candidate of a page that has been added.
  uint32_t IndexOf(PageId page) const { return index_of_page_[page]; }

  template <typename Visit>
  void ForEachReader(const Candidate& candidate, const Visit& visit) const {
    if (candidate.first_reader != kNone) {
      visit(candidate.first_reader);
    }
    for (uint32_t i = candidate.more_readers; i != kNone; i = readers_[i].next) {
      visit(readers_[i].sequence);
    }
  }

 private:
  struct Reader {
    uint32_t sequence = 0;
    uint32_t next = kNone;
  };

  Candidate& Get(const PagePool& pool, PageId page, Tier coldest);

  std::vector<Candidate> all_;
  std::vector<uint32_t> index_of_page_;  // by PageId: into all_; kNone: not there
  std::vector<Reader> readers_;
};

// The next step down of one page.
struct DemotionEdge {
  double cost = 0;  // value x error, by byte freed
  uint32_t candidate = 0;
  Tier to = Tier::kWarm;

  bool operator<(const DemotionEdge& other) const {
    return cost != other.cost ? cost < other.cost : candidate < other.candidate;
  }
};

// Gives edges in order of cost. It sorts only as far as they are asked for: of 60,000 edges a plan
// takes a few hundred.
class EdgeQueue {
 public:
  // Fills the queue anew.
  void Start() {
    edges_.clear();
    pushed_.clear();
  }
  void Add(const DemotionEdge& edge) { edges_.push_back(edge); }
  // Once all are added.
  void Sort();
  // The cheapest edge not yet taken; null: all were.
  const DemotionEdge* First();
  // Takes it, and adds another.
  void Pop();
  void Push(const DemotionEdge& edge);

 private:
  void SortMore();

  std::vector<DemotionEdge> edges_;
  size_t next_ = 0;
  size_t num_sorted_ = 0;
  // What lies before each of these is cheaper than what lies behind it; the nearest is the last.
  std::vector<size_t> ends_;
  std::vector<DemotionEdge> pushed_;  // a heap, the cheapest first
};

// exp2(-age / kHeatHalfLife), to the last bit, without computing it for each page.
class HeatDecay {
 public:
  HeatDecay();
  double At(uint64_t age) const;

 private:
  std::array<double, kHeatHalfLife> fractions_;
};

// Which pages go how far down, what that frees and what it costs the readers: see AdaptivePolicy.
// Begin, then FreeOf and Free, then Changes; and again from the start.
class DemotionPlan {
 public:
  // `pool` and `sequences` outlive the plan's other calls. `keeps_last`: the last empty superblock
  // is not lent to warm pages.
  void Begin(const PagePool& pool, std::span<const SequencePages> sequences,
             const TierDemand& demand, bool keeps_last);

  // Bytes of a sequence's pages as planned so far.
  uint64_t PlannedBytes(size_t sequence) const { return planned_bytes_[sequence]; }
  // Takes the cheapest edges of one sequence's pages until these have freed `bytes`, whatever error
  // they bring it.
  void FreeOf(size_t sequence, uint64_t bytes);
  // Takes the cheapest edges of all that keep every reader within its MaxError.
  void Free(uint64_t bytes);
  // A change for each page of which edges were taken, in the order in which the first one was.
  std::vector<TierChange> Changes() const;

  // The error that is predicted for what a sequence reads.
  double PredictedError(size_t sequence) const { return errors_[sequence]; }

 private:
  using Candidate = DemotionCandidates::Candidate;

  // Queues a page's next step down, if there is one.
  void AddEdge(uint32_t index, bool is_first);
  Tier NextTier(Tier from, Tier coldest) const;
  double Value(const Candidate& candidate, const PagePool::Heat& heat) const;
  double AddedError(const DemotionEdge& edge) const;
  bool Fits(const DemotionEdge& edge, double more) const;
  uint64_t Take(const DemotionEdge& edge, double more);
  void TakeFirst(uint64_t bytes, bool within_errors);
  uint64_t NumKeptEmpty(Tier to) const { return to == Tier::kWarm && keeps_last_ ? 1 : 0; }

  const PagePool* pool_ = nullptr;
  std::span<const SequencePages> sequences_;
  TierDemand demand_;
  bool keeps_last_ = true;
  std::array<uint64_t, kNumTiers> page_bytes_{};
  // Where a page of one tier goes next that may go as far as another; the first: nowhere.
  std::array<std::array<Tier, kNumTiers>, kNumTiers> next_tier_{};
  HeatDecay decay_;
  DemotionCandidates candidates_;
  std::vector<double> errors_;           // predicted, by sequence
  std::vector<uint64_t> planned_bytes_;  // by sequence
  EdgeQueue queue_;
  std::vector<uint32_t> taken_;  // candidates
};

}  // namespace thermocline
