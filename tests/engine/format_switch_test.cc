// The formats of cold pages change while requests run, on pages of real bytes: no page is read in
// formats that it was not written in.

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/engine_core.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/core_rig.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/test_device.h"

namespace thermocline {
namespace {

// Cold pages of int8, three units of the arena; in the formats that follow they take one.
KvFormats WideFormats() { return {.cold = {Codec::kInt8}}; }
KvFormats NarrowFormats() { return DefaultKvFormats(kSmallLayout); }

class FormatRig {
 public:
  FormatRig(int num_units, KvPolicy policy)
      : device_(MakeTestDevice(1)),
        pool(kSmallLayout, PageBytes(kSmallLayout, WideFormats()),
             static_cast<uint64_t>(num_units) * kArenaUnitBytes, kArenaUnitBytes),
        runner(pool, *device_, kVocab),
        driver_({.max_num_seqs = 4,
                 .max_num_batched_tokens = 64,
                 .max_model_len = 16 * kPageTokens,
                 .prefix_hash_key = 1,
                 .tiers = {.policy = policy, .window_tokens = kPageTokens}},
                pool, runner),
        core(driver_.core) {
    runner.SetFormats(WideFormats());
  }

  Submitted Add(int num_prompt, TokenId first, int max_tokens,
                KvFidelity fidelity = KvFidelity::kBalanced) {
    Request request = MakeRequest(FiniteTokens(num_prompt, first), max_tokens);
    request.kv_fidelity = fidelity;
    return driver_.Add(std::move(request));
  }
  void Step() { driver_.Step(); }
  void RunAll() { driver_.RunAll(); }
  void Switch(const KvFormats& formats) {
    core.SwitchFormats(PageBytes(kSmallLayout, formats), [&] {
      EXPECT_EQ(pool.arena().num_used(Tier::kCold), 0U);
      EXPECT_EQ(pool.arena().num_used(Tier::kWarm), 0U);
      runner.SetFormats(formats);
    });
    EXPECT_TRUE(pool.Audit().ok()) << pool.Audit().message();
  }
  void ExpectRight(const Submitted& submitted) {
    EXPECT_TRUE(submitted.recording->Wait().ok());
    submitted.ExpectRight();
    EXPECT_EQ(runner.num_wrong_pages(), 0);
  }

 private:
  std::unique_ptr<Device> device_;

 public:
  PagePool pool;
  ByteRunner runner;

 private:
  CoreDriver driver_;

 public:
  EngineCore& core;
};

TEST(FormatSwitch, CachedCodedPagesAreForgotten) {
  FormatRig rig(400, KvPolicy::kCold);
  const auto before = rig.Add(8 * kPageTokens, 0, 4);
  rig.RunAll();
  rig.ExpectRight(before);
  EXPECT_GT(rig.pool.arena().num_used(Tier::kCold), 0U);
  EXPECT_TRUE(rig.core.CanSwitchFormats());
  rig.Switch(NarrowFormats());
  EXPECT_EQ(rig.pool.arena().units_per_page(Tier::kCold), 1U);
  const auto after = rig.Add(8 * kPageTokens, 0, 4);
  rig.RunAll();
  rig.ExpectRight(after);
  EXPECT_EQ(after.recording->usage().cached_prompt_tokens, 0);
}

TEST(FormatSwitch, WhoReadsColdPagesComputesAgainAndContinuesTheText) {
  FormatRig rig(400, KvPolicy::kCold);
  const auto reader = rig.Add(6 * kPageTokens, 0, 80);
  const auto small = rig.Add(kPageTokens / 2, 300, 100);  // has no cold page
  while (reader.recording->tokens().size() < 20) {
    rig.Step();
  }
  EXPECT_FALSE(rig.core.CanSwitchFormats());
  rig.Switch(NarrowFormats());
  EXPECT_EQ(rig.core.stats().scheduler.num_preemptions, 1U);
  rig.RunAll();
  rig.ExpectRight(reader);
  rig.ExpectRight(small);
}

TEST(FormatSwitch, UnderChurnNothingIsLostAndEveryTextIsRight) {
  std::mt19937 random(11);
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  for (const KvPolicy policy : {KvPolicy::kAdaptive, KvPolicy::kCold}) {
    FormatRig rig(140, policy);
    std::vector<Submitted> all;
    bool wide = true;
    for (int round = 0; round < 400; ++round) {
      if (all.size() < 60 && draw(0, 3) == 0) {
        constexpr std::array<KvFidelity, 4> kFidelities = {KvFidelity::kExact, KvFidelity::kHigh,
                                                           KvFidelity::kBalanced, KvFidelity::kMax};
        const KvFidelity fidelity = kFidelities[static_cast<size_t>(draw(0, 3))];
        all.push_back(rig.Add(draw(1, 8 * kPageTokens), 40 * draw(0, 3), draw(1, 60), fidelity));
      }
      rig.Step();
      if (draw(0, 9) == 0) {
        wide = !wide;
        rig.Switch(wide ? WideFormats() : NarrowFormats());
      }
    }
    rig.RunAll();
    for (const Submitted& submitted : all) {
      rig.ExpectRight(submitted);
    }
    const EngineStats stats = rig.core.stats();
    EXPECT_GT(stats.tiers.moves[static_cast<size_t>(Tier::kCold)], 0U);
    EXPECT_EQ(stats.tiers.corrupt, 0U);
  }
}

}  // namespace
}  // namespace thermocline
