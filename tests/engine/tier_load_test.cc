// Many more sequences than the arena holds hot, in the sizes of a real model's pages, on a model
// that notices every lost or misplaced byte (FakeRunner).

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/testing/core_rig.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr int kQuarterPageTokens = 16;  // a quarter: so are lengths, window and steps

struct Load {
  int arena_sequences = 8;  // that the arena holds hot
  int num_sequences = 32;
  int num_prompt = 832;
  int num_output = 176;
  KvPolicy policy = KvPolicy::kAdaptive;
  float energy = 0;  // of every page
  double seconds_per_move = 1e-9;
  int prefill_cap = SchedulerConfig().max_num_prefill_tokens_while_decoding;
};

struct LoadOutcome {
  uint64_t num_preemptions = 0;
  int most_running = 0;
  int num_steps = 0;
  TierStats tiers;
};

// Runs all of a load to its end; every sequence has to give the right tokens.
LoadOutcome RunLoad(const Load& load) {
  const int pages =
      (load.num_prompt + load.num_output + kQuarterPageTokens - 1) / kQuarterPageTokens;
  const auto pool = MakeRealPool(pages * load.arena_sequences, kQuarterPageTokens);
  FakeRunner runner(*pool, kVocab);
  runner.seconds_per_move = load.seconds_per_move;
  if (load.energy > 0) {
    runner.heat = [&](const Sequence& /*sequence*/, size_t /*index*/) {
      return PageHeat{.peak = load.energy, .mean = load.energy};
    };
  }
  CoreDriver driver({.max_num_seqs = 64,
                     .max_num_batched_tokens = 128,
                     .max_num_prefill_tokens_while_decoding = load.prefill_cap,
                     .max_model_len = pages * kQuarterPageTokens,
                     .prefix_hash_key = 1,
                     .tiers = {.policy = load.policy, .window_tokens = 3 * kQuarterPageTokens}},
                    *pool, runner);
  EngineCore& core = driver.core;
  std::vector<Submitted> all;
  for (int i = 0; i < load.num_sequences; ++i) {
    all.push_back(driver.Add(MakeRequest(Counting(load.num_prompt, i), load.num_output)));
  }
  LoadOutcome outcome;
  for (; core.has_work() && outcome.num_steps < 10000; ++outcome.num_steps) {
    EXPECT_TRUE(core.Step().ok());
    core.Deliver();
    outcome.most_running = std::max(outcome.most_running, core.stats().scheduler.num_running);
  }
  for (const Submitted& submitted : all) {
    submitted.ExpectRight();
  }
  EXPECT_TRUE(pool->Audit().ok());
  outcome.num_preemptions = core.stats().scheduler.num_preemptions;
  outcome.tiers = core.stats().tiers;
  return outcome;
}

// Eight sequences fit hot.
TEST(TierLoad, ThirtyTwoSequencesFinishWithoutPreemption) {
  const LoadOutcome adaptive = RunLoad({.policy = KvPolicy::kAdaptive});
  EXPECT_EQ(adaptive.num_preemptions, 0U);
  EXPECT_GE(adaptive.most_running, 24);
  // Few pages move twice, by way of warm.
  const uint64_t num_moves =
      std::accumulate(adaptive.tiers.moves.begin(), adaptive.tiers.moves.end(), uint64_t{0});
  EXPECT_LE(num_moves, uint64_t{32} * 63 * 3 / 2);
  const LoadOutcome hot = RunLoad({.policy = KvPolicy::kHot});
  EXPECT_GT(hot.num_preemptions, 0U);
  EXPECT_LE(hot.most_running, 10);
  EXPECT_LT(adaptive.num_steps, hot.num_steps * 2 / 3);
}

// From almost all moves in the background to none: what cools then finds a place in an arena that
// is full to the last superblock, whichever tier that was lent to.
TEST(TierLoad, SlowMovesCostNoPreemption) {
  for (const double seconds_per_move : {3e-6, 2e-5, 1.0}) {
    const LoadOutcome outcome = RunLoad({.seconds_per_move = seconds_per_move});
    EXPECT_EQ(outcome.num_preemptions, 0U) << seconds_per_move;
    EXPECT_GE(outcome.most_running, 24) << seconds_per_move;
  }
}

TEST(TierLoad, LongPromptsDoNotPreemptOneAnother) {
  EXPECT_EQ(RunLoad({.num_prompt = 976, .num_output = 32}).num_preemptions, 0U);
}

// Prompts that take many steps, each beside sequences that decode: what those need next is counted
// whatever the age of the prompt.
TEST(TierLoad, PromptsInSmallPiecesCostNoPreemption) {
  for (const int cap : {4, 16}) {
    const LoadOutcome outcome = RunLoad({.num_prompt = 200, .num_output = 808, .prefill_cap = cap});
    EXPECT_EQ(outcome.num_preemptions, 0U) << cap;
    EXPECT_GE(outcome.most_running, 16) << cap;
    EXPECT_EQ(RunLoad({.prefill_cap = cap}).num_preemptions, 0U) << cap;
  }
}

// A small arena, of which the superblocks that admission keeps free are a large part.
TEST(TierLoad, AsManyRunAsWithoutDemotion) {
  const Load load{.arena_sequences = 2, .num_sequences = 8, .num_prompt = 228, .num_output = 28};
  Load hot = load;
  hot.policy = KvPolicy::kHot;
  EXPECT_GE(RunLoad(load).most_running, RunLoad(hot).most_running);
}

// When the error budget holds few cold pages, admission counts on more than there is: it has to
// learn, not to preempt the same sequences over and over.
TEST(TierLoad, PagesThatMayNotCoolCostFewPreemptions) {
  for (const float energy : {1.0F / 63, 10.0F / 63, 1.0F}) {
    const LoadOutcome outcome = RunLoad({.energy = energy});
    EXPECT_LE(outcome.num_preemptions, 32U) << energy;
  }
}

}  // namespace
}  // namespace thermocline
