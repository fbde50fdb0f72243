#include "scheduler/tier_policies.h"

#include <algorithm>

namespace thermocline {

std::vector<TierChange> ForcedPolicy::Propose(const PagePool& pool,
                                              std::span<const SequencePages> sequences,
                                              const TierDemand& /*demand*/) {
  std::vector<TierChange> changes;
  const Tier coldest = pool.PageBytes(tier_) > 0 ? tier_ : Tier::kCold;
  std::vector<SequencePages> forced(sequences.begin(), sequences.end());
  for (SequencePages& sequence : forced) {
    sequence.in_prompt = false;  // prompts too are to read what the tier loses
  }
  candidates_.Fill(pool, forced, coldest, Tier::kHot);
  for (const DemotionCandidates::Candidate& candidate : candidates_.all()) {
    // What the archive holds has been cold: that is the loss to be measured.
    const Tier next = candidate.tier < Tier::kCold ? std::min(coldest, Tier::kCold) : coldest;
    const Tier to = std::min(next, candidate.coldest);
    if (candidate.tier < to) {
      changes.push_back({.page = candidate.page, .to = to});
    }
  }
  return changes;
}

uint64_t AdaptivePolicy::BytesOverBudget(const PagePool& pool, const SequencePages& sequence,
                                         uint64_t bytes) const {
  const uint64_t hot_bytes = pool.PageBytes(Tier::kHot);
  const uint64_t all_hot = (sequence.pages.size() + 1) * hot_bytes;
  const auto allowed = static_cast<uint64_t>(budget_ * static_cast<double>(all_hot));
  return bytes + hot_bytes - std::min(bytes + hot_bytes, allowed);
}

bool AdaptivePolicy::AllWithinBudget(const PagePool& pool,
                                     std::span<const SequencePages> sequences) const {
  return std::all_of(sequences.begin(), sequences.end(), [&](const SequencePages& sequence) {
    uint64_t bytes = 0;
    for (const PageId page : sequence.pages) {
      bytes += pool.PageBytes(pool.tier(page));
    }
    return BytesOverBudget(pool, sequence, bytes) == 0;
  });
}

std::vector<TierChange> AdaptivePolicy::Propose(const PagePool& pool,
                                                std::span<const SequencePages> sequences,
                                                const TierDemand& demand) {
  if (demand.bytes_wanted == 0 && (budget_ <= 0 || AllWithinBudget(pool, sequences))) {
    return {};
  }
  // To fill a superblock with cold pages empties more than two of warm ones. So the last empty one
  // is lent to warm only when nothing can go cold.
  for (const bool keeps_last : {true, false}) {
    plan_.Begin(pool, sequences, demand, keeps_last);
    for (size_t s = 0; s < sequences.size() && budget_ > 0; ++s) {
      const uint64_t over = BytesOverBudget(pool, sequences[s], plan_.PlannedBytes(s));
      if (over > 0) {
        plan_.FreeOf(s, over);
      }
    }
    plan_.Free(demand.bytes_wanted);
    std::vector<TierChange> changes = plan_.Changes();
    if (!changes.empty() || !demand.urgent || demand.bytes_wanted == 0) {
      return changes;
    }
  }
  return {};
}

}  // namespace thermocline
