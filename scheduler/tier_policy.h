#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// What decides how warm pages are kept. kAdaptive: by attention energy, when memory is short. kHot:
// nothing is demoted. kWarm, kCold: every full page outside the first one and the recent window is
// there at once. kArchive: the same, by way of cold, and nothing wakes: what the tier loses can be
// measured so, and it is for no other use. The last three are baselines that evict tokens and
// demote nothing, whatever a request's fidelity: engine/baselines/evictor.h.
enum class KvPolicy : uint8_t {
  kAdaptive,
  kHot,
  kWarm,
  kCold,
  kArchive,
  kStreaming,
  kH2o,
  kSnapKv
};

constexpr bool Evicts(KvPolicy policy) { return policy >= KvPolicy::kStreaming; }

// How much error a client accepts for memory: the bound of the predicted relative error of the
// attention output, see MaxError. kExact: a request reads only pages that are exact, and kHigh only
// such that have been warm at coldest, whoever has computed them and whenever they cool: see
// PagePool for the loss of a page.
enum class KvFidelity : uint8_t { kExact, kHigh, kBalanced, kMax };

double MaxError(KvFidelity fidelity);

// Relative mean squared error of what a tier keeps: measured, docs/design.md.
double TierError(Tier tier);

// The most loss of a page that a request of this fidelity reads.
Tier AcceptedLoss(KvFidelity fidelity);

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

// Decides, never acts. Guards of every policy: page 0 of a sequence and the recent window are never
// below warm, a page that several sequences read obeys all of them, and none goes where a reader
// refuses it (which the pool would not let it).
class TierPolicy {
 public:
  virtual ~TierPolicy() = default;
  // Pages to demote, at most one change for each, best first. Pages that move already, or cannot,
  // are left out.
  virtual std::vector<TierChange> Propose(const PagePool& pool,
                                          std::span<const SequencePages> sequences,
                                          const TierDemand& demand) const = 0;
};

// kWarm, kCold and kArchive, which is kCold where the pool has no archive.
class ForcedPolicy : public TierPolicy {
 public:
  explicit ForcedPolicy(Tier tier) : tier_(tier) {}
  std::vector<TierChange> Propose(const PagePool& pool, std::span<const SequencePages> sequences,
                                  const TierDemand& demand) const override;

 private:
  Tier tier_;
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
                                  const TierDemand& demand) const override;
  bool has_budget() const { return budget_ > 0; }

 private:
  double budget_;
};

// The decayed peak of a page at `step`.
double PeakAt(const PagePool::Heat& heat, uint64_t step);

}  // namespace thermocline
