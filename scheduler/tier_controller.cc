#include "scheduler/tier_controller.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/base/check.h"
#include "scheduler/tier_policies.h"

namespace thermocline {
namespace {

constexpr double kStartUse = 0.75;
constexpr double kStopUse = 0.70;
constexpr double kArchiveUse = 0.85;   // of the arena: below it cold is cold enough
constexpr double kProportional = 4.0;  // moves per step for 1 % of the arena above kStopUse
constexpr double kIntegral = 0.25;
constexpr double kMaxRate = 64;    // moves per step
constexpr size_t kMaxMoves = 256;  // in one call
constexpr uint64_t kSuperblocksPerReserved = 64;
constexpr uint64_t kMinSuperblocksToReserve = 4;
constexpr size_t kMaxCompactionMoves = 64;
constexpr size_t kMaxEvictions = 256;  // in one call
// Beside the reserve: what the last superblocks of warm and cold leave free.
constexpr uint64_t kSlackSuperblocks = 2;
constexpr uint64_t kSlackPart = 50;  // a fiftieth, for places that are free between others

std::unique_ptr<TierPolicy> MakePolicy(const TierConfig& config) {
  switch (config.policy) {
    case KvPolicy::kAdaptive:
      return std::make_unique<AdaptivePolicy>(config.budget);
    case KvPolicy::kWarm:
      return std::make_unique<ForcedPolicy>(Tier::kWarm);
    case KvPolicy::kCold:
      return std::make_unique<ForcedPolicy>(Tier::kCold);
    case KvPolicy::kArchive:
      return std::make_unique<ForcedPolicy>(Tier::kArchive);
    default:
      break;
  }
  return nullptr;
}

}  // namespace

TierController::TierController(const TierConfig& config, PagePool& pool)
    : config_(config), pool_(pool), policy_(MakePolicy(config)) {
  const uint64_t num_superblocks = pool.arena().num_empty_superblocks();
  if (demotes() && num_superblocks >= kMinSuperblocksToReserve) {
    num_reserved_ = std::max<uint64_t>(1, num_superblocks / kSuperblocksPerReserved);
    pool.set_reserved_superblocks(num_reserved_);
  }
}

Tier TierController::Coldest() const {
  switch (config_.policy) {
    case KvPolicy::kAdaptive:
    case KvPolicy::kCold:
      return Tier::kCold;
    case KvPolicy::kArchive:
      return pool_.arena().units_per_page(Tier::kArchive) > 0 ? Tier::kArchive : Tier::kCold;
    case KvPolicy::kWarm:
      return Tier::kWarm;
    default:
      return Tier::kHot;
  }
}

uint64_t TierController::ColdBytes(size_t num_pages, bool in_prompt, KvFidelity fidelity) const {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t window =
      (static_cast<size_t>(config_.window_tokens) + page_tokens - 1) / page_tokens;
  size_t num_hot = in_prompt ? 2 : 1;
  size_t num_warm = 1;  // the first page
  (config_.policy == KvPolicy::kAdaptive ? num_warm : num_hot) += window;
  num_hot = fidelity == KvFidelity::kExact ? num_pages : std::min(num_hot, num_pages);
  num_warm = std::min(num_warm, num_pages - num_hot);
  const Tier coldest = fidelity == KvFidelity::kHigh ? std::min(Coldest(), Tier::kWarm) : Coldest();
  const auto bytes = [&](Tier tier) {
    return uint64_t{pool_.arena().units_per_page(tier)} * kArenaUnitBytes;
  };
  return num_hot * bytes(Tier::kHot) + num_warm * bytes(std::min(coldest, Tier::kWarm)) +
         (num_pages - num_hot - num_warm) * bytes(coldest);
}

uint64_t TierController::BytesToFill() const {
  const Arena& arena = pool_.arena();
  const uint64_t units = arena.num_units() - arena.num_units() / kSlackPart;
  const uint64_t kept = (num_reserved_ + kSlackSuperblocks) * arena.units_per_superblock();
  return (units - std::min(units, kept)) * kArenaUnitBytes;
}

ProposedMoves TierController::Propose(std::span<const SequencePages> sequences, uint64_t step,
                                      size_t pages_wanted) {
  ProposedMoves plan;
  if (!demotes()) {
    return plan;
  }
  TierDemand demand{.step = step,
                    .archives = archives() && (config_.budget > 0 || Use() > kArchiveUse)};
  if (config_.policy != KvPolicy::kAdaptive) {
    Begin(policy_->Propose(pool_, sequences, demand), kMaxMoves, plan);
    plan.wait = !plan.moves.empty();
    Compact(plan);
    return plan;
  }
  const uint64_t hot_bytes = pool_.arena().units_per_page(Tier::kHot) * kArenaUnitBytes;
  size_t max_moves = 0;
  if (const size_t num_free = pool_.num_free(); num_free < pages_wanted) {
    EvictCold((pages_wanted - num_free) * hot_bytes);
  }
  if (const size_t num_free = pool_.num_free(); num_free < pages_wanted) {
    if (pool_.num_moving() > 0) {
      plan.wait = true;  // those in flight hold two places each
      return plan;
    }
    // What is freed has to hold the pages that were moved as well: a superblock more.
    const uint64_t superblock = pool_.arena().units_per_superblock() * kArenaUnitBytes;
    demand.bytes_wanted = (pages_wanted - num_free) * hot_bytes + superblock;
    demand.urgent = plan.wait = true;
    max_moves = kMaxMoves;
  } else {
    credit_ = std::min(credit_ + BackgroundRate(), kMaxRate);
    max_moves = static_cast<size_t>(credit_);
    const double above = std::max(0.0, Use() - kStopUse);
    demand.bytes_wanted = static_cast<uint64_t>(
        above * static_cast<double>(pool_.arena().num_units() * kArenaUnitBytes));
  }
  if (config_.budget > 0) {
    demand.urgent = plan.wait = true;
    max_moves = kMaxMoves;
  }
  if (max_moves > 0 && pool_.num_moving() < max_moves) {
    Begin(policy_->Propose(pool_, sequences, demand), max_moves, plan);
    if (!demand.urgent) {
      credit_ -= static_cast<double>(plan.moves.size());
    }
  }
  Compact(plan);
  // Even moves in the background take places that the step wants, until they end.
  plan.wait = (plan.wait || pool_.num_free() < pages_wanted) && !plan.moves.empty();
  return plan;
}

// Cold pages that nobody reads go before what runs cools further. The room they leave may be in
// pieces: compaction brings it together.
void TierController::EvictCold(uint64_t bytes) {
  uint64_t freed = 0;
  for (const PageId page : pool_.OldestCached(kMaxEvictions)) {
    if (freed >= bytes) {
      return;
    }
    if (pool_.is_hashed(page) && pool_.tier(page) >= Tier::kCold) {
      freed += pool_.arena().units_per_page(pool_.tier(page)) * kArenaUnitBytes;
      pool_.Forget(page);
    }
  }
}

// The part of the arena in use. A cold page that nobody reads counts as free: it can be evicted.
double TierController::Use() const {
  const Arena& arena = pool_.arena();
  const auto total = static_cast<double>(arena.num_units() * kArenaUnitBytes);
  return (total - static_cast<double>(arena.bytes_free() + pool_.cold_evictable_bytes())) / total;
}

double TierController::BackgroundRate() {
  const double use = Use();
  draining_ = use > (draining_ ? kStopUse : kStartUse);
  if (!draining_) {
    integral_ = 0;
    return 0;
  }
  const double error = 100 * (use - kStopUse);
  const double rate = kProportional * error + kIntegral * integral_;
  const double max_rate = std::min(kMaxRate, max_background_moves_);
  if (rate < max_rate) {
    integral_ += error;  // else it would wind up while the bound holds
  }
  return std::clamp(rate, 0.0, max_rate);
}

void TierController::Begin(const std::vector<TierChange>& changes, size_t max_moves,
                           ProposedMoves& plan) {
  for (const TierChange& change : changes) {
    if (plan.moves.size() >= max_moves) {
      return;
    }
    if (std::optional<PendingMove> move =
            pool_.BeginMove(change.page, change.to, change.keep_empty)) {
      plan.moves.push_back(std::move(*move));
    }
  }
}

// When no superblock is empty but the reserve, brings together the pages of sparse ones. Pages that
// are being written move too: the next step waits.
void TierController::Compact(ProposedMoves& plan) {
  if (pool_.arena().num_empty_superblocks() > num_reserved_) {
    return;
  }
  for (const Tier tier : {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    std::vector<PendingMove> moves = pool_.BeginCompaction(tier, kMaxCompactionMoves);
    plan.wait = plan.wait || !moves.empty();
    std::move(moves.begin(), moves.end(), std::back_inserter(plan.moves));
  }
}

MovePlan TierController::Start(ProposedMoves proposed) {
  MovePlan plan{.wait = proposed.wait};
  plan.moves.reserve(proposed.moves.size());
  for (PendingMove& pending : proposed.moves) {
    plan.moves.push_back(Start(std::move(pending)));
  }
  return plan;
}

PageMove TierController::Start(PendingMove pending) {
  started_.push_back(std::move(pending));
  return started_.back().move();
}

PendingMove TierController::TakeStarted(const PageMove& move) {
  const auto found =
      std::find_if(started_.begin(), started_.end(), [&](const PendingMove& pending) {
        return pending.move().page == move.page && pending.move().to == move.to;
      });
  CHECK(found != started_.end());
  PendingMove pending = std::move(*found);
  started_.erase(found);
  return pending;
}

std::vector<PageId> TierController::End(std::span<const FinishedMove> finished, uint64_t step) {
  std::vector<PageId> corrupt;
  for (const FinishedMove& end : finished) {
    PendingMove pending = TakeStarted(end.move);  // what is not committed aborts
    const PageId page = end.move.page;
    const bool compaction = end.move.from.tier() == end.move.to.tier();
    switch (end.result.outcome) {
      case MoveResult::Outcome::kOk:
        if (!std::move(pending).Commit(end.result.checksum)) {
          ++stats_.refused;
          break;
        }
        if (!compaction) {
          pool_.heat(page).move_step = step;
        }
        ++stats_.moves[static_cast<size_t>(end.move.to.tier())];
        stats_.compactions += compaction ? 1 : 0;
        break;
      case MoveResult::Outcome::kNotFinite:
        ++stats_.not_finite;
        pool_.Pin(page);
        break;
      case MoveResult::Outcome::kCorrupt:
        ++stats_.corrupt;
        pool_.Pin(page);
        corrupt.push_back(page);
        break;
      case MoveResult::Outcome::kDeviceError:
        ++stats_.device_errors;
        break;
    }
  }
  return corrupt;
}

void TierController::Observe(std::span<const PageId> pages, std::span<const PageHeat> heat,
                             uint64_t step) {
  for (size_t i = 0; i < heat.size() && i < pages.size(); ++i) {
    PagePool::Heat& known = pool_.heat(pages[i]);
    known.peak = std::max(heat[i].peak, static_cast<float>(PeakAt(known, step)));
    known.peak_step = step;
    known.mean = heat[i].mean;
  }
}

}  // namespace thermocline
