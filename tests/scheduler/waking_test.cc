#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "tests/scheduler/transfer_rig.h"

namespace thermocline {
namespace {

// Hot pages take eight units, warm ones four, cold ones two, archived ones one. What a sequence of
// twenty pages may take is less than it has with all cold.
constexpr TierConfig kTight = {.policy = KvPolicy::kAdaptive, .budget = 0.25, .window_tokens = 4};
constexpr int kMaxModelLen = 200;
constexpr int kPrompt = 61;  // fifteen full pages

class WakingTest : public testing::Test {
 protected:
  TransferRig MakeRig(int num_units = 480) {
    return {store_, MakeArchivingPool(num_units), kTight, kMaxModelLen};
  }
  static uint64_t NumArchived(const TransferRig& rig) {
    return rig.pool->arena().num_used(Tier::kArchive);
  }
  static void Add(TransferRig& rig, KvFidelity fidelity = KvFidelity::kMax) {
    rig.Add(1, Counting(kPrompt), 100, fidelity);
  }
  static void Step(TransferRig& rig) {
    rig.Step();
    rig.EndTransfers();
  }
  // Steps of the one sequence until some of its pages are archived.
  static void RunUntilArchived(TransferRig& rig) {
    for (int i = 0; i < 80 && NumArchived(rig) == 0; ++i) {
      Step(rig);
    }
    ASSERT_GT(NumArchived(rig), 0U);
  }
  // The place in its sequence of one archived page.
  static size_t AnyArchived(const TransferRig& rig) {
    const std::vector<const Sequence*> running = rig.scheduler.RunningSequences();
    const Sequence& sequence = *running.at(0);
    for (size_t i = 0; i < sequence.pages.size(); ++i) {
      if (rig.pool->tier(sequence.pages[i]) == Tier::kArchive) {
        return i;
      }
    }
    ADD_FAILURE() << "no page is archived";
    return 0;
  }
  static PageId PageAt(const TransferRig& rig, size_t index) {
    return rig.scheduler.RunningSequences().at(0)->pages[index];
  }

  FakeStore store_;
};

TEST_F(WakingTest, PagesAreArchivedOnlyWithAPinnedCopy) {
  TransferRig rig = MakeRig();
  Add(rig);
  RunUntilArchived(rig);
  EXPECT_EQ(store_.num_pinned(), static_cast<int>(NumArchived(rig)));
  rig.RunAll();
  rig.ExpectWholeOutput(1);
}

TEST_F(WakingTest, PinsGoWithTheProcess) {
  {
    TransferRig rig = MakeRig();
    Add(rig);
    RunUntilArchived(rig);
    EXPECT_GT(store_.num_pinned(), 0);
  }
  EXPECT_EQ(store_.num_pinned(), 0);
}

TEST_F(WakingTest, WithoutACopyCountsAsNotSaved) {
  TransferRig rig = MakeRig();
  Add(rig);
  for (int i = 0; i < 80; ++i) {
    Step(rig);
    store_.EvictUnpinned();  // the store is too small for what it takes
  }
  EXPECT_EQ(NumArchived(rig), 0U);
  rig.RunAll();
  rig.ExpectWholeOutput(1);
}

TEST_F(WakingTest, AStoreThatTakesNothingLeavesPagesCold) {
  TransferRig rig = MakeRig();
  Add(rig);
  for (int i = 0; i < 80; ++i) {
    rig.Step();
    for (rig.Take(); !rig.transfers.empty();) {
      rig.EndOneTransfer(/*ok=*/false);
    }
  }
  EXPECT_EQ(NumArchived(rig), 0U);
  EXPECT_GT(rig.pool->arena().num_used(Tier::kCold), 0U);
}

TEST_F(WakingTest, RequestsOfHighFidelityAreNeverArchived) {
  for (const KvFidelity fidelity : {KvFidelity::kHigh, KvFidelity::kExact}) {
    TransferRig rig = MakeRig();
    Add(rig, fidelity);
    for (int i = 0; i < 80; ++i) {
      Step(rig);
    }
    EXPECT_EQ(NumArchived(rig), 0U);
  }
}

TEST_F(WakingTest, APageThatStandsOutTwiceGetsItsBytesBack) {
  TransferRig rig = MakeRig();
  Add(rig);
  RunUntilArchived(rig);
  const size_t index = AnyArchived(rig);
  const PageId page = PageAt(rig, index);
  rig.runner.heat = [&](const Sequence& /*sequence*/, size_t i) {
    return i == index ? PageHeat{.peak = 0.5F, .mean = 0.1F} : PageHeat{.peak = 0.001F, .mean = 0};
  };
  for (int i = 0; i < 24 && rig.pool->tier(page) == Tier::kArchive; ++i) {
    Step(rig);
  }
  EXPECT_EQ(rig.pool->tier(page), Tier::kCold);
  EXPECT_EQ(rig.scheduler.stats().num_woken, 1U);
  EXPECT_EQ(rig.scheduler.stats().num_unwoken, 0U);
  rig.RunAll();
  rig.ExpectWholeOutput(1);
}

TEST_F(WakingTest, OneSampleOrASmallOneWakesNothing) {
  TransferRig rig = MakeRig();
  Add(rig);
  RunUntilArchived(rig);
  const size_t index = AnyArchived(rig);
  int samples = 0;
  rig.runner.heat = [&](const Sequence& /*sequence*/, size_t i) {
    const bool once = i == index && samples++ == 0;
    return PageHeat{.peak = once ? 0.5F : i == index ? 0.0009F : 0.0001F, .mean = 0};
  };
  for (int i = 0; i < 24; ++i) {
    Step(rig);
  }
  EXPECT_GT(samples, 1);
  EXPECT_EQ(rig.scheduler.stats().num_woken, 0U);
}

TEST_F(WakingTest, ANewTurnComputesNothingBeforeItsPagesHaveWoken) {
  TransferRig rig = MakeRig();
  Add(rig);
  RunUntilArchived(rig);
  while (rig.scheduler.has_work()) {
    Step(rig);
  }
  const uint64_t num_archived = NumArchived(rig);
  ASSERT_GT(num_archived, 1U);
  std::vector<TokenId> conversation = Counting(kPrompt);
  conversation.insert(conversation.end(), rig.output[1].begin(), rig.output[1].end());
  conversation.push_back(777);
  rig.Add(2, conversation, 4, KvFidelity::kMax);
  EXPECT_TRUE(rig.Step().empty());
  EXPECT_EQ(rig.transfers.size(), num_archived);
  for (uint64_t left = num_archived; left > 0; --left) {
    EXPECT_TRUE(rig.Step().empty());
    EXPECT_EQ(NumArchived(rig), left);
    rig.EndOneTransfer();
  }
  EXPECT_EQ(rig.scheduler.stats().num_woken, num_archived);
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{2, 2}}));
  rig.RunAll();
  rig.ExpectWholeOutput(2);
  EXPECT_EQ(rig.cached[2], 160);
}

TEST_F(WakingTest, APageThatCannotBeReadStaysReadableAndIsCounted) {
  TransferRig rig = MakeRig();
  Add(rig);
  RunUntilArchived(rig);
  const size_t index = AnyArchived(rig);
  const PageId page = PageAt(rig, index);
  rig.runner.heat = [&](const Sequence& /*sequence*/, size_t i) {
    return i == index ? PageHeat{.peak = 0.5F, .mean = 0.1F} : PageHeat{};
  };
  for (int i = 0; i < 24 && rig.scheduler.stats().num_unwoken == 0; ++i) {
    rig.Step();
    for (rig.Take(); !rig.transfers.empty();) {
      rig.EndOneTransfer(rig.transfers.front().kind != PageTransfer::Kind::kWake);
    }
  }
  EXPECT_EQ(rig.scheduler.stats().num_unwoken, 1U);
  EXPECT_EQ(rig.pool->tier(page), Tier::kArchive);
  rig.runner.heat = nullptr;
  rig.RunAll();
  rig.ExpectWholeOutput(1);
}

TEST_F(WakingTest, ASequenceThatEndsWhileAPageWakesLosesNothing) {
  TransferRig rig = MakeRig();
  Add(rig);
  RunUntilArchived(rig);
  const size_t index = AnyArchived(rig);
  rig.runner.heat = [&](const Sequence& /*sequence*/, size_t i) {
    return i == index ? PageHeat{.peak = 0.5F, .mean = 0.1F} : PageHeat{};
  };
  while (rig.transfers.empty() || rig.transfers.back().kind != PageTransfer::Kind::kWake) {
    rig.Step();
  }
  rig.scheduler.Cancel(1);
  rig.EndTransfers();
  for (const PageId page : rig.pool->OldestCached(rig.pool->num_evictable())) {
    rig.pool->Forget(page);
  }
  EXPECT_EQ(rig.pool->arena().bytes_free(), rig.pool->arena().num_units() * kArenaUnitBytes);
  rig.scheduler.ProposeMoves();
  EXPECT_EQ(store_.num_pinned(), 0);
}

// As Transfers.ConversationsThatComeBackAtRandom..., with pages that are archived and wake.
TEST_F(WakingTest, RandomConversationsGiveTheTextTheyWouldHaveGiven) {
  std::mt19937 random(11);
  uint64_t woken = 0;
  for (int process = 0; process < 10; ++process) {
    TransferRig rig = MakeRig(420);
    rig.runner.heat = [&](const Sequence& /*sequence*/, size_t /*index*/) {
      return PageHeat{.peak = random() % 12 == 0 ? 0.3F : 0.001F, .mean = 0.0001F};
    };
    RequestId next = 1;
    std::vector<std::vector<TokenId>> conversations(4);
    for (TokenId i = 0; i < 4; ++i) {
      conversations[static_cast<size_t>(i)] = Counting(41, i * 100);
    }
    for (int i = 0; i < 500; ++i) {
      if (random() % 30 == 0) {
        auto& conversation = conversations[random() % 4];
        conversation.push_back(static_cast<TokenId>(random() % 5));
        rig.Add(next++, conversation, static_cast<int>(random() % 100 + 20), KvFidelity::kMax);
      }
      rig.Step();
      for (size_t ends = random() % 6; ends > 0 && !rig.transfers.empty(); --ends) {
        rig.EndOneTransfer(random() % 16 > 0);
      }
      if (random() % 50 == 0) {
        store_.EvictUnpinned();
      }
    }
    rig.RunAll();
    rig.EndTransfers();
    for (const auto& [id, request] : rig.requests) {
      rig.ExpectWholeOutput(id);
    }
    rig.ExpectNothingHeld();
    woken += rig.scheduler.stats().num_woken;
  }
  EXPECT_GT(woken, 100U);
}

}  // namespace
}  // namespace thermocline
