#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// What decides how warm pages are kept. kAdaptive: by attention energy, when memory is short. kHot:
// nothing is demoted. kWarm, kCold: every full page outside the first one and the recent window is
// there at once. kArchive: the same, by way of cold, and nothing wakes: what the tier loses can be
// measured so, and it is for no other use.
enum class KvPolicy : uint8_t { kAdaptive, kHot, kWarm, kCold, kArchive };

// How much error a client accepts for memory: the bound of the predicted relative error of the
// attention output, see MaxError. kExact: a request reads only pages that are exact, and kHigh only
// such that have been warm at coldest, whoever has computed them and whenever they cool: see
// PagePool for the loss of a page.
enum class KvFidelity : uint8_t { kExact, kHigh, kBalanced, kMax };

constexpr double MaxError(KvFidelity fidelity) {
  switch (fidelity) {
    case KvFidelity::kExact:
      return 0;
    case KvFidelity::kHigh:
      return 0.005;
    case KvFidelity::kBalanced:
      return 0.02;
    case KvFidelity::kMax:
      break;
  }
  return 0.08;
}

// Relative mean squared error of what a tier keeps. Measured: docs/design.md.
constexpr double TierError(Tier tier) {
  switch (tier) {
    case Tier::kHot:
      return 0;
    case Tier::kWarm:
      return 4e-5;
    case Tier::kCold:
      return 0.034;
    default:
      return 0.21;
  }
}

// The most loss of a page that a request of this fidelity reads.
constexpr Tier AcceptedLoss(KvFidelity fidelity) {
  switch (fidelity) {
    case KvFidelity::kExact:
      return Tier::kHot;
    case KvFidelity::kHigh:
      return Tier::kWarm;
    default:
      return kAnyTier;
  }
}

// The peak energy of a page halves in this many steps.
inline constexpr uint64_t kHeatHalfLife = 256;
// A page stays in a tier for at least so many steps, unless memory is short.
inline constexpr uint64_t kMinDwellSteps = 32;
// The recent window: positions before the next token whose pages stay hot. Under kAdaptive, when
// memory is short, they are at least warm.
inline constexpr int kWindowTokens = 192;

// One running sequence as a policy sees it. pages [0, num_settled) are full and have left the
// recent window; the others are in it, or not yet full, which keeps a page hot.
struct SequencePages {
  std::span<const PageId> pages;
  size_t num_settled = 0;
  KvFidelity fidelity = KvFidelity::kBalanced;
  bool in_prompt = false;  // it reads pages for a prompt, or will: none of them is archived
};

struct TierDemand {
  uint64_t step = 0;
  uint64_t bytes_wanted = 0;  // to be freed
  bool urgent = false;        // pages that have just moved, and those of the window, may move
  bool archives = false;      // pages that PagePool::is_saved may be archived
};

struct TierChange {
  PageId page = 0;
  Tier to = Tier::kHot;
  uint64_t keep_empty = 0;  // superblocks that it leaves empty
};

// Decides, never acts. What holds for every policy: page 0 of a sequence and the recent window are
// never below warm, a page that several sequences read obeys all of them, and none goes where a
// reader refuses it (which the pool would not let it).
class TierPolicy {
 public:
  virtual ~TierPolicy() = default;
  // Pages to demote, at most one change for each, best first. Pages that move already, or cannot,
  // are left out. Not const: a policy keeps its arrays from one call to the next.
  virtual std::vector<TierChange> Propose(const PagePool& pool,
                                          std::span<const SequencePages> sequences,
                                          const TierDemand& demand) = 0;
};

// The decayed peak of a page at `step`.
inline double PeakAt(const PagePool::Heat& heat, uint64_t step) {
  const auto age = static_cast<double>(step - heat.peak_step);
  return static_cast<double>(heat.peak) * std::exp2(-age / kHeatHalfLife);
}

}  // namespace thermocline
