#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "scheduler/page_pool.h"
#include "scheduler/tier_policy.h"

// AdaptivePolicy in plain words: every step down of every page in one list, sorted by cost. It is
// what the policy with arrays by page has to agree with, change by change.

namespace thermocline {

inline constexpr size_t kMaxIdlePages = 256;  // cached pages looked at in one call
inline constexpr double kIdleValue = 1e-9;    // of a page that nobody reads
inline constexpr double kRecencyValue = 1e-6;

// A page with all who read it.
struct PlainCandidate {
  PageId page = 0;
  Tier coldest = Tier::kCold;
  Tier tier = Tier::kHot;       // as planned so far
  std::vector<size_t> readers;  // indices of sequences
};

class PlainCandidates {
 public:
  // `recent`: the coldest tier of the recent window.
  PlainCandidates(const PagePool& pool, std::span<const SequencePages> sequences, Tier coldest,
                  Tier recent)
      : pool_(pool), coldest_(coldest) {
    for (size_t s = 0; s < sequences.size(); ++s) {
      const SequencePages& sequence = sequences[s];
      for (size_t i = 0; i < sequence.pages.size(); ++i) {
        PlainCandidate& candidate = Get(sequence.pages[i]);
        candidate.readers.push_back(s);
        if (i >= sequence.num_settled) {
          candidate.coldest = std::min(candidate.coldest, recent);
        } else if (i == 0) {
          candidate.coldest = std::min(candidate.coldest, Tier::kWarm);
        } else if (sequence.in_prompt) {
          candidate.coldest = std::min(candidate.coldest, Tier::kCold);
        }
      }
    }
  }

  void AddIdle() {
    for (const PageId page : pool_.OldestCached(kMaxIdlePages)) {
      PlainCandidate& candidate = Get(page);
      candidate.coldest = std::min(candidate.coldest, Tier::kCold);
    }
  }

  std::vector<PlainCandidate>& all() { return all_; }
  PlainCandidate& Get(PageId page) {
    const auto [it, added] = index_.emplace(page, all_.size());
    if (added) {
      const bool fixed = !pool_.is_full(page) || pool_.is_moving(page) || pool_.is_pinned(page);
      all_.push_back({.page = page,
                      .coldest = fixed ? Tier::kHot : std::min(coldest_, pool_.accepted(page)),
                      .tier = pool_.tier(page)});
    }
    return all_[it->second];
  }

 private:
  const PagePool& pool_;
  Tier coldest_;
  std::vector<PlainCandidate> all_;
  std::unordered_map<PageId, size_t> index_;
};

// One step down of one page.
struct PlainEdge {
  double cost = 0;  // value x error, by byte
  size_t candidate = 0;
  Tier from = Tier::kHot;
  Tier to = Tier::kWarm;
};

// Which edges are taken, what they free and what they cost the readers.
class PlainPlan {
 public:
  // `keeps_last`: the last empty superblock is not lent to warm.
  PlainPlan(const PagePool& pool, std::span<const SequencePages> sequences,
            const TierDemand& demand, bool keeps_last)
      : pool_(pool),
        sequences_(sequences),
        demand_(demand),
        // What is not urgent does not reach the window: pages that go on to cold when they leave it
        // would move twice.
        candidates_(pool, sequences, demand.archives ? Tier::kArchive : Tier::kCold,
                    demand.urgent ? Tier::kWarm : Tier::kHot),
        keeps_last_(keeps_last),
        errors_(sequences.size(), 0.0) {
    candidates_.AddIdle();
    for (size_t i = 0; i < candidates_.all().size(); ++i) {
      const PlainCandidate& candidate = candidates_.all()[i];
      for (const size_t reader : candidate.readers) {
        errors_[reader] += Energy(candidate) * TierError(candidate.tier);
      }
      AddEdges(i);
    }
    std::sort(edges_.begin(), edges_.end(), [](const PlainEdge& a, const PlainEdge& b) {
      return a.cost != b.cost
                 ? a.cost < b.cost
                 : (a.candidate != b.candidate ? a.candidate < b.candidate : a.from < b.from);
    });
  }

  void Free(uint64_t bytes) {
    uint64_t freed = 0;
    for (size_t i = 0; i < edges_.size() && freed < bytes; ++i) {
      freed += Fits(edges_[i]) ? Take(edges_[i]) : 0;
    }
  }

  void FreeOf(size_t sequence, uint64_t bytes) {
    uint64_t freed = 0;
    for (size_t i = 0; i < edges_.size() && freed < bytes; ++i) {
      const std::vector<size_t>& readers = candidates_.all()[edges_[i].candidate].readers;
      if (std::find(readers.begin(), readers.end(), sequence) != readers.end()) {
        freed += Take(edges_[i]);
      }
    }
  }

  uint64_t PlannedBytes(const SequencePages& sequence) {
    uint64_t bytes = 0;
    for (const PageId page : sequence.pages) {
      bytes += pool_.PageBytes(candidates_.Get(page).tier);
    }
    return bytes;
  }

  std::vector<TierChange> Changes() {
    std::vector<TierChange> changes;
    for (const size_t index : taken_) {
      const PlainCandidate& candidate = candidates_.all()[index];
      changes.push_back({.page = candidate.page,
                         .to = candidate.tier,
                         .keep_empty = NumKeptEmpty(candidate.tier)});
    }
    return changes;
  }

 private:
  double Energy(const PlainCandidate& candidate) const { return pool_.heat(candidate.page).mean; }

  double Value(const PlainCandidate& candidate) const {
    if (candidate.readers.empty()) {
      return kIdleValue;
    }
    const PagePool::Heat& heat = pool_.heat(candidate.page);
    const auto age = static_cast<double>(demand_.step - heat.peak_step);
    return static_cast<double>(candidate.readers.size()) *
           (PeakAt(heat, demand_.step) + kRecencyValue * std::exp2(-age / kHeatHalfLife));
  }

  void AddEdges(size_t index) {
    const PlainCandidate& candidate = candidates_.all()[index];
    const uint64_t moved = pool_.heat(candidate.page).move_step;
    const bool is_new = moved > 0 && demand_.step < moved + kMinDwellSteps;
    Tier from = candidate.tier;
    for (const Tier to : {Tier::kWarm, Tier::kCold, Tier::kArchive}) {
      const bool archives = to == Tier::kArchive;
      const bool dwells = is_new && (archives || !demand_.urgent);
      if (to <= candidate.tier || to > candidate.coldest || dwells || !HasPlace(to) ||
          pool_.PageBytes(from) <= pool_.PageBytes(to)) {
        continue;
      }
      if (archives && (candidate.tier != Tier::kCold || !pool_.is_saved(candidate.page))) {
        continue;
      }
      const auto freed = static_cast<double>(pool_.PageBytes(from) - pool_.PageBytes(to));
      edges_.push_back({.cost = Value(candidate) * (TierError(to) - TierError(from)) / freed,
                        .candidate = index,
                        .from = from,
                        .to = to});
      from = to;
    }
  }

  uint64_t NumKeptEmpty(Tier to) const { return to == Tier::kWarm && keeps_last_ ? 1 : 0; }

  // Whether pages may go to this tier at all: what finds no place there goes on to the next.
  bool HasPlace(Tier tier) const {
    const Arena& arena = pool_.arena();
    return arena.num_partial_places(tier) > 0 || arena.num_empty_superblocks() > NumKeptEmpty(tier);
  }

  bool Fits(const PlainEdge& edge) const {
    const PlainCandidate& candidate = candidates_.all()[edge.candidate];
    const double more = Energy(candidate) * (TierError(edge.to) - TierError(edge.from));
    return std::all_of(candidate.readers.begin(), candidate.readers.end(), [&](size_t reader) {
      return errors_[reader] + more <= MaxError(sequences_[reader].fidelity);
    });
  }

  // Bytes that it frees; 0 when the page is not where the edge begins.
  uint64_t Take(const PlainEdge& edge) {
    PlainCandidate& candidate = candidates_.all()[edge.candidate];
    if (candidate.tier != edge.from) {
      return 0;
    }
    if (candidate.tier == pool_.tier(candidate.page)) {
      taken_.push_back(edge.candidate);
    }
    candidate.tier = edge.to;
    for (const size_t reader : candidate.readers) {
      errors_[reader] += Energy(candidate) * (TierError(edge.to) - TierError(edge.from));
    }
    return pool_.PageBytes(edge.from) - pool_.PageBytes(edge.to);
  }

  const PagePool& pool_;
  std::span<const SequencePages> sequences_;
  TierDemand demand_;
  mutable PlainCandidates candidates_;
  bool keeps_last_;
  std::vector<double> errors_;    // predicted, by sequence
  std::vector<PlainEdge> edges_;  // cheapest first
  std::vector<size_t> taken_;     // candidates
};

inline std::vector<TierChange> PlainPropose(const PagePool& pool,
                                            std::span<const SequencePages> sequences,
                                            const TierDemand& demand, double budget) {
  // To fill a superblock with cold pages empties more than two of warm ones. So the last empty one
  // is lent to warm only when nothing can go cold.
  for (const bool keeps_last : {true, false}) {
    PlainPlan plan(pool, sequences, demand, keeps_last);
    for (size_t s = 0; s < sequences.size() && budget > 0; ++s) {
      // With the page that comes next: what is planned takes a step, and by then it is there.
      const uint64_t hot_bytes = pool.PageBytes(Tier::kHot);
      const uint64_t all_hot = (sequences[s].pages.size() + 1) * hot_bytes;
      const auto allowed = static_cast<uint64_t>(budget * static_cast<double>(all_hot));
      const uint64_t planned = plan.PlannedBytes(sequences[s]) + hot_bytes;
      if (planned > allowed) {
        plan.FreeOf(s, planned - allowed);
      }
    }
    plan.Free(demand.bytes_wanted);
    std::vector<TierChange> changes = plan.Changes();
    if (!changes.empty() || !demand.urgent || demand.bytes_wanted == 0) {
      return changes;
    }
  }
  return {};
}

}  // namespace thermocline
