// Pages that cool while sequences run, through the whole engine core on a model that notices every
// lost or misplaced byte (FakeRunner).

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "engine/kv_snapshot.h"
#include "tests/testing/core_rig.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr int kHotUnits = 4;

struct TieredOptions {
  int num_units = 0;
  TierConfig tiers;
  int max_num_seqs = 8;
  int max_model_len = 64;
  int max_num_batched_tokens = 16;
  bool has_archive = false;
};

class TieredRig : public CoreRig {
 public:
  explicit TieredRig(const TieredOptions& options)
      : CoreRig(options.has_archive ? MakeArchivingPool(options.num_units)
                                    : MakeTieredPool(options.num_units),
                {.max_num_seqs = options.max_num_seqs,
                 .max_num_batched_tokens = options.max_num_batched_tokens,
                 .max_model_len = options.max_model_len,
                 .prefix_hash_key = 1,
                 .tiers = options.tiers}) {}

  using CoreRig::Add;
  Submitted Add(int num_prompt, TokenId first, int max_tokens, KvFidelity fidelity) {
    Request request = MakeRequest(Counting(num_prompt, first), max_tokens);
    request.kv_fidelity = fidelity;
    return Add(std::move(request));
  }
};

TEST(TieredEngine, ForcedPolicyLeavesTheFirstPageWarmAndTheWindowHot) {
  for (const KvPolicy policy : {KvPolicy::kWarm, KvPolicy::kCold}) {
    TieredRig rig({.num_units = 100, .tiers = SmallTiers(policy)});
    const auto submitted = rig.Add(40, 0, 8, KvFidelity::kBalanced);
    rig.RunAll();
    submitted.ExpectRight();
    const auto tokens = submitted.recording->usage().tier_tokens;
    EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), 0), 47);  // the last is not computed
    const bool cold = policy == KvPolicy::kCold;
    EXPECT_EQ(tokens[static_cast<size_t>(Tier::kWarm)], cold ? 4 : 36);
    EXPECT_EQ(tokens[static_cast<size_t>(Tier::kCold)], cold ? 32 : 0);
    uint64_t units = 0;  // only the last page, a hot one, is not full
    for (size_t tier = 0; tier < kNumTiers; ++tier) {
      units += static_cast<uint64_t>((tokens[tier] + kFakePageTokens - 1) / kFakePageTokens) *
               rig.pool->arena().units_per_page(static_cast<Tier>(tier));
    }
    EXPECT_EQ(submitted.recording->usage().kv_bytes_held, units * kArenaUnitBytes);
  }
}

TEST(TieredEngine, ForcedArchiveIsReachedByWayOfColdAndIsColdWhereThereIsNone) {
  for (const bool has_archive : {true, false}) {
    TieredRig rig(
        {.num_units = 200, .tiers = SmallTiers(KvPolicy::kArchive), .has_archive = has_archive});
    const auto submitted = rig.Add(40, 0, 8, KvFidelity::kBalanced);
    rig.RunAll();
    submitted.ExpectRight();
    const auto& moves = rig.core.stats().tiers.moves;
    const auto moves_to = [&](Tier tier) { return moves[static_cast<size_t>(tier)]; };
    EXPECT_GE(moves_to(Tier::kCold), 8U);
    EXPECT_EQ(moves_to(Tier::kArchive) >= 7, has_archive);
    const auto tokens = submitted.recording->usage().tier_tokens;
    EXPECT_EQ(tokens[static_cast<size_t>(Tier::kArchive)] >= 28, has_archive);
    EXPECT_EQ(tokens[static_cast<size_t>(Tier::kWarm)], 4);  // the first page
  }
}

TEST(TieredEngine, NothingIsArchivedUnlessForced) {
  for (const KvPolicy policy : {KvPolicy::kAdaptive, KvPolicy::kCold}) {
    TieredRig rig({.num_units = 200, .tiers = SmallTiers(policy), .has_archive = true});
    std::vector<Submitted> all;
    for (int i = 0; i < 6; ++i) {
      all.push_back(rig.Add(40, 20 * i, 20, KvFidelity::kMax));
    }
    rig.RunAll();
    EXPECT_GT(rig.core.stats().tiers.moves[static_cast<size_t>(Tier::kCold)], 0U);
    EXPECT_EQ(rig.core.stats().tiers.moves[static_cast<size_t>(Tier::kArchive)], 0U);
  }
}

TEST(TieredEngine, ASnapshotShowsTheTiersOfARunningSequence) {
  TieredRig rig({.num_units = 100, .tiers = SmallTiers(KvPolicy::kCold)});
  rig.Add(40, 0, 8, KvFidelity::kBalanced);
  while (rig.core.stats().steps.generated_tokens < 4) {
    ASSERT_TRUE(rig.core.Step().ok());
  }
  const KvSnapshot snapshot = rig.core.TakeSnapshot();
  ASSERT_EQ(snapshot.sequences.size(), 1U);
  const std::vector<Tier>& pages = snapshot.sequences[0].pages;
  EXPECT_EQ(snapshot.page_tokens, kFakePageTokens);
  ASSERT_EQ(pages.size(), 11U);
  EXPECT_EQ(pages[0], Tier::kWarm);
  EXPECT_EQ(pages[1], Tier::kCold);
  EXPECT_EQ(pages[10], Tier::kHot);
  std::array<uint64_t, kNumTiers> counted{};
  for (const Tier tier : pages) {
    ++counted[static_cast<size_t>(tier)];
  }
  EXPECT_EQ(snapshot.stats.arena.tier_pages, counted);
}

TEST(TieredEngine, PagesKeptEmptyForMovesCountAsFree) {
  TieredRig rig({.num_units = 400, .tiers = SmallTiers(KvPolicy::kAdaptive)});
  EXPECT_EQ(rig.core.stats().arena.num_free_pages, 100U);
  EXPECT_LT(rig.pool->num_free(), 100U);
}

TEST(TieredEngine, HotPolicyMovesNothing) {
  TieredRig rig({.num_units = 100, .tiers = SmallTiers(KvPolicy::kHot)});
  rig.Add(40, 0, 8, KvFidelity::kMax);
  rig.RunAll();
  EXPECT_EQ(rig.runner.num_moves(), 0U);
}

// Eight sequences' worth of hot pages, thirty-two sequences.
TEST(TieredEngine, DemotionComesBeforePreemption) {
  for (const bool adaptive : {true, false}) {
    TieredRig rig({.num_units = 8 * 64 * kHotUnits,
                   .tiers = SmallTiers(adaptive ? KvPolicy::kAdaptive : KvPolicy::kHot),
                   .max_num_seqs = 32,
                   .max_model_len = 256,
                   .max_num_batched_tokens = 64});
    std::vector<Submitted> all;
    for (int i = 0; i < 32; ++i) {
      all.push_back(rig.Add(120, static_cast<TokenId>(i), 136, KvFidelity::kBalanced));
    }
    int max_running = 0;
    while (rig.core.has_work()) {
      ASSERT_TRUE(rig.core.Step().ok());
      rig.core.Deliver();
      max_running = std::max(max_running, rig.core.stats().scheduler.num_running);
      ASSERT_TRUE(rig.pool->Audit().ok()) << rig.pool->Audit().message();
    }
    for (const Submitted& submitted : all) {
      submitted.ExpectRight();
    }
    if (adaptive) {
      EXPECT_EQ(rig.core.stats().scheduler.num_preemptions, 0U);
      EXPECT_GE(max_running, 20);
    } else {
      EXPECT_GT(rig.core.stats().scheduler.num_preemptions, 0U);
    }
  }
}

TEST(TieredEngine, ColdPagesThatNobodyReadsGoBeforeWhatRunsCools) {
  TieredRig rig({.num_units = 200, .tiers = SmallTiers(KvPolicy::kAdaptive)});
  int num_cold = 0;
  for (TokenId first = 0; first < 30; ++first) {
    const auto submitted = rig.Add(40, first, 20, KvFidelity::kBalanced);
    rig.RunAll();
    submitted.ExpectRight();
    num_cold += submitted.recording->usage().tier_tokens[static_cast<size_t>(Tier::kCold)];
  }
  // All idle pages may be moving when one is wanted.
  EXPECT_LT(num_cold, 30 * 59 / 20);
  EXPECT_GT(rig.pool->num_evictions(), 100U);
}

TEST(TieredEngine, ExactRequestsNeitherCoolNorReadWhatHasCooled) {
  TieredRig rig({.num_units = 200, .tiers = SmallTiers(KvPolicy::kCold)});
  rig.Add(40, 0, 4, KvFidelity::kBalanced);
  rig.RunAll();
  const auto lossy = rig.Add(40, 0, 4, KvFidelity::kBalanced);
  rig.RunAll();
  EXPECT_EQ(lossy.recording->usage().cached_prompt_tokens, 36);
  EXPECT_TRUE(lossy.recording->usage().reused_lossy);
  const auto high = rig.Add(40, 0, 4, KvFidelity::kHigh);
  rig.RunAll();
  EXPECT_EQ(high.recording->usage().cached_prompt_tokens, 4);  // the first page is warm
  const auto exact = rig.Add(40, 0, 4, KvFidelity::kExact);
  rig.RunAll();
  exact.ExpectRight();
  EXPECT_EQ(exact.recording->usage().cached_prompt_tokens, 0);
  EXPECT_FALSE(exact.recording->usage().reused_lossy);
  EXPECT_EQ(exact.recording->usage().tier_tokens[static_cast<size_t>(Tier::kHot)], 43);
}

// One in so many moves fails in each way there is.
TEST(TieredEngine, FailedMovesLoseNothing) {
  for (const MoveResult::Outcome outcome :
       {MoveResult::Outcome::kNotFinite, MoveResult::Outcome::kCorrupt,
        MoveResult::Outcome::kDeviceError}) {
    for (const unsigned one_in : {1U, 7U}) {
      TieredRig rig({.num_units = 200, .tiers = SmallTiers(KvPolicy::kCold)});
      unsigned count = 0;
      rig.runner.move_outcome = [&](const PageMove& move) {
        // Only what has a checksum can be found corrupt; for the others it is a failed device.
        const bool fails = ++count % one_in == 0 && count < 200;
        return fails ? (outcome == MoveResult::Outcome::kCorrupt && move.from.tier() == Tier::kHot
                            ? MoveResult::Outcome::kDeviceError
                            : outcome)
                     : MoveResult::Outcome::kOk;
      };
      std::vector<Submitted> all;
      for (int i = 0; i < 12; ++i) {
        all.push_back(rig.Add(30, static_cast<TokenId>(i % 3), 20, KvFidelity::kMax));
      }
      rig.RunAll();
      for (const Submitted& submitted : all) {
        submitted.ExpectRight();
      }
      EXPECT_TRUE(rig.pool->Audit().ok());
    }
  }
}

TEST(TieredEngine, CorruptPageIsComputedAgain) {
  TieredRig rig({.num_units = 200, .tiers = SmallTiers(KvPolicy::kAdaptive)});
  const auto submitted = rig.Add(40, 0, 10, KvFidelity::kMax);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(rig.core.Step().ok());
  }
  const PageId page = 1;
  ASSERT_TRUE(rig.pool->is_full(page));
  Scheduler& scheduler = rig.core.scheduler();
  scheduler.EndMoves(std::vector<FinishedMove>{
      {.move = scheduler.tiers().Start(rig.pool->BeginMove(page, Tier::kWarm).value()),
       .result = {.outcome = MoveResult::Outcome::kCorrupt}}});
  EXPECT_EQ(rig.core.stats().scheduler.num_preemptions, 1U);
  rig.RunAll();
  submitted.ExpectRight();
  EXPECT_EQ(rig.core.stats().tiers.corrupt, 1U);
}

TEST(TieredEngine, BudgetHoldsEachSequenceToItsPartOfTheBytes) {
  TierConfig tiers = SmallTiers(KvPolicy::kAdaptive);
  tiers.budget = 0.5;
  TieredRig rig({.num_units = 400, .tiers = tiers});
  const auto submitted = rig.Add(50, 0, 10, KvFidelity::kBalanced);
  rig.RunAll();
  submitted.ExpectRight();
  const auto tokens = submitted.recording->usage().tier_tokens;
  const double bytes = tokens[0] + tokens[1] / 2.0 + tokens[2] / 4.0;
  EXPECT_LE(bytes, 0.5 * 60 + kFakePageTokens);
  EXPECT_GE(bytes, 0.3 * 60);  // and takes what it may
}

// Less than is possible: all that may cool has.
TEST(TieredEngine, UnderPressureTheRecentWindowIsWarm) {
  TierConfig tiers = SmallTiers(KvPolicy::kAdaptive);
  tiers.budget = 0.25;
  TieredRig rig({.num_units = 400, .tiers = tiers});
  const auto submitted = rig.Add(50, 0, 10, KvFidelity::kMax);
  rig.RunAll();
  submitted.ExpectRight();
  const auto tokens = submitted.recording->usage().tier_tokens;
  EXPECT_EQ(tokens[static_cast<size_t>(Tier::kHot)], 3);  // in the page that is not full
  EXPECT_EQ(tokens[static_cast<size_t>(Tier::kWarm)],
            3 * kFakePageTokens);  // the first, the window
  EXPECT_EQ(tokens[static_cast<size_t>(Tier::kCold)], 11 * kFakePageTokens);
}

TEST(TieredEngine, LongRandomHistoriesGiveTheRightTokens) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    TieredOptions options{.num_units = 64 + static_cast<int>(random() % 200),
                          .tiers = SmallTiers(static_cast<KvPolicy>(random() % 4)),
                          .max_num_seqs = 1 + static_cast<int>(random() % 12)};
    if (seed % 5 == 0) {
      options.tiers.budget = 0.4;
    }
    TieredRig rig(options);
    rig.runner.move_outcome = [&](const PageMove& move) {
      const auto dice = random() % 40;
      return dice == 0                                     ? MoveResult::Outcome::kNotFinite
             : dice == 1                                   ? MoveResult::Outcome::kDeviceError
             : dice == 2 && move.from.tier() != Tier::kHot ? MoveResult::Outcome::kCorrupt
                                                           : MoveResult::Outcome::kOk;
    };
    std::vector<std::pair<Submitted, bool>> all;  // and whether it was cancelled
    for (int step = 0; step < 400; ++step) {
      if (random() % 8 == 0) {
        const int num_prompt = static_cast<int>(random() % 50) + 1;
        all.emplace_back(rig.Add(num_prompt, static_cast<TokenId>(random() % 3),
                                 static_cast<int>(random() % (64 - num_prompt)) + 1,
                                 static_cast<KvFidelity>(random() % 4)),
                         false);
      }
      if (random() % 40 == 0 && !all.empty()) {
        const size_t which = random() % all.size();
        rig.core.Cancel(which + 1);
        all[which].second = true;
      }
      if (rig.core.has_work()) {
        ASSERT_TRUE(rig.core.Step().ok());
      }
      rig.core.Deliver();
      const Status audit = rig.pool->Audit();
      ASSERT_TRUE(audit.ok()) << "seed " << seed << ": " << audit.message();
    }
    rig.RunAll();
    for (const auto& [submitted, cancelled] : all) {
      if (!cancelled) {
        submitted.ExpectRight();
      }
    }
    EXPECT_EQ(rig.pool->num_moving(), 0U);
  }
}

}  // namespace
}  // namespace thermocline
