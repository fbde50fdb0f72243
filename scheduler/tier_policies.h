#pragma once

#include <span>
#include <vector>

#include "scheduler/demotion_plan.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

// kWarm, kCold and kArchive, which is kCold where the pool has no archive.
class ForcedPolicy : public TierPolicy {
 public:
  explicit ForcedPolicy(Tier tier) : tier_(tier) {}
  std::vector<TierChange> Propose(const PagePool& pool, std::span<const SequencePages> sequences,
                                  const TierDemand& demand) override;

 private:
  Tier tier_;
  DemotionCandidates candidates_;
};

// Frees `bytes_wanted` at the least cost. The cost of demoting a page is its attention energy, the
// largest over heads of (mass x largest weight), times what the edge adds to the tier's error, by
// byte freed; for rotated codes the error of an output is a sum of just these terms, so the
// cheapest edges first is the optimum of that model. Hot to warm costs almost nothing and goes
// first. What nobody reads is evicted rather than archived, and a page is archived only once it has
// been seen cold for kMinDwellSteps. An edge that would bring a reader's predicted error over its
// MaxError is left out. With `budget` in (0, 1], a sequence's pages are held to this part of their
// bytes, all hot, whatever its error.
class AdaptivePolicy : public TierPolicy {
 public:
  explicit AdaptivePolicy(double budget) : budget_(budget) {}
  std::vector<TierChange> Propose(const PagePool& pool, std::span<const SequencePages> sequences,
                                  const TierDemand& demand) override;

 private:
  // How far a sequence whose pages take `bytes` is over its budget. The page that comes next is
  // counted too: what is planned takes a step, and by then it is there.
  uint64_t BytesOverBudget(const PagePool& pool, const SequencePages& sequence,
                           uint64_t bytes) const;
  bool AllWithinBudget(const PagePool& pool, std::span<const SequencePages> sequences) const;

  double budget_;
  DemotionPlan plan_;
};

}  // namespace thermocline
