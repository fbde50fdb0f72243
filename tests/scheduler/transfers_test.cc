#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "tests/scheduler/transfer_rig.h"

namespace thermocline {
namespace {

constexpr int kManyUnits = 160;

// What a process that ran one conversation has left: four pages of its 18 tokens.
void SaveConversation(FakeStore& store, const TierConfig& tiers = {}) {
  TransferRig rig(store, kManyUnits, tiers);
  rig.Add(1, Counting(14));
  rig.RunAll();
  rig.ExpectNothingHeld();
}

TEST(Transfers, FullPagesAreSavedOnceTheyAreReleased) {
  FakeStore store;
  TransferRig rig(store, kManyUnits);
  rig.Add(1, Counting(14));
  rig.Step();
  EXPECT_FALSE(rig.scheduler.has_transfers());
  while (rig.scheduler.has_work()) {
    rig.Step();
  }
  rig.Take();
  EXPECT_EQ(rig.transfers.size(), 4U);
  rig.EndTransfers();
  EXPECT_EQ(store.pages.size(), 4U);
  rig.Add(2, Counting(14));  // finds them in the arena, and they are not saved twice
  rig.RunAll();
  EXPECT_EQ(rig.cached[2], 12);
  EXPECT_FALSE(rig.scheduler.has_transfers());
}

TEST(Transfers, APageThatIsReleasedAgainWhileItIsSavedIsNotQueuedTwice) {
  FakeStore store;
  TransferRig rig(store, kManyUnits);
  rig.Add(1, Counting(14));
  while (rig.scheduler.has_work()) {
    rig.Step();
  }
  rig.Take();
  ASSERT_EQ(rig.transfers.size(), 4U);
  rig.Add(2, Counting(14));
  while (rig.scheduler.has_work()) {
    rig.Step();
  }
  EXPECT_FALSE(rig.scheduler.has_transfers_to_take());  // or the engine would spin until they end
  EXPECT_EQ(rig.transfers.size(), 4U);
  rig.EndTransfers();
  EXPECT_EQ(store.pages.size(), 4U);
}

TEST(Transfers, ARestartedProcessGetsThePagesBackAndComputesTheRest) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, kManyUnits);
  rig.Add(7, Counting(15));
  EXPECT_TRUE(rig.Step().empty());
  EXPECT_EQ(rig.transfers.size(), 3U);
  rig.EndOneTransfer();
  rig.EndOneTransfer();
  EXPECT_TRUE(rig.Step().empty());  // no step before all have come
  rig.EndOneTransfer();
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 3}}));
  rig.RunAll();
  rig.ExpectWholeOutput(7);
  EXPECT_EQ(rig.cached[7], 12);
  EXPECT_EQ(rig.scheduler.stats().restored_tokens, 12U);
}

TEST(Transfers, AConversationContinuesAfterARestartAsIfThereHadBeenNone) {
  FakeStore store;
  std::vector<TokenId> conversation = Counting(14);
  {
    TransferRig rig(store, kManyUnits);
    rig.Add(1, conversation);
    rig.RunAll();
    conversation.insert(conversation.end(), rig.output[1].begin(), rig.output[1].end());
  }
  conversation.push_back(500);
  TransferRig rig(store, kManyUnits);
  rig.Add(2, conversation);
  rig.RunAll();
  rig.ExpectWholeOutput(2);
  EXPECT_EQ(rig.cached[2], 16);  // the answer's pages too
}

TEST(Transfers, APageThatDoesNotComeIsComputedWithAllAfterIt) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, kManyUnits);
  rig.Add(7, Counting(15));
  rig.Step();
  rig.EndOneTransfer();
  rig.EndOneTransfer(/*ok=*/false);
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 11}}));
  rig.EndOneTransfer();  // the third page comes to nobody
  rig.RunAll();
  rig.ExpectWholeOutput(7);
  EXPECT_EQ(rig.cached[7], 4);
  rig.ExpectNothingHeld();
}

TEST(Transfers, CancellingWhileLoadingFreesEachPageWhenItsLoadEnds) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, kManyUnits);
  const uint64_t all_free = rig.pool->arena().bytes_free();
  rig.Add(7, Counting(15));
  rig.Step();
  rig.EndOneTransfer();
  rig.scheduler.Cancel(7);
  EXPECT_EQ(rig.pool->num_transferring(), 2U);
  rig.EndOneTransfer();
  rig.EndOneTransfer(/*ok=*/false);
  EXPECT_EQ(rig.pool->num_evictable(), 1U);  // the page that had come
  rig.pool->Forget(rig.pool->OldestCached(1)[0]);
  EXPECT_EQ(rig.pool->arena().bytes_free(), all_free);
}

TEST(Transfers, TwoPromptsThatBeginAlikeLoadTheirPagesOnce) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, kManyUnits);
  rig.Add(7, Counting(15));
  rig.Add(8, Counting(14));
  rig.Add(9, Counting(10, 100));  // something else does not wait
  EXPECT_EQ(rig.Step().count(9), 1U);
  EXPECT_EQ(rig.transfers.size(), 3U);
  rig.RunAll();
  for (const RequestId id : {7, 8, 9}) {
    rig.ExpectWholeOutput(id);
  }
  EXPECT_EQ(rig.cached[8], 12);
  EXPECT_EQ(rig.scheduler.stats().restored_tokens, 12U);
}

TEST(Transfers, AnotherTenantGetsNothingBack) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, kManyUnits);
  Request request;
  request.id = 7;
  request.tenant = "somebody else";
  request.prompt = Counting(15);
  request.stop.max_tokens = 4;
  rig.Submit(std::move(request));
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 15}}));
  EXPECT_TRUE(rig.transfers.empty());
}

constexpr TierConfig kColdTiers = {.policy = KvPolicy::kCold, .window_tokens = 4};

TEST(Transfers, PagesComeBackInTheTierInWhichTheyWereSaved) {
  FakeStore store;
  SaveConversation(store, kColdTiers);
  TransferRig rig(store, kManyUnits, kColdTiers);
  rig.Add(7, Counting(15));
  rig.Step();
  rig.EndTransfers();
  EXPECT_EQ(rig.pool->arena().num_used(Tier::kCold), 2U);  // the first page stays warm
  EXPECT_EQ(rig.pool->arena().num_used(Tier::kWarm), 1U);
  rig.RunAll();
  rig.ExpectWholeOutput(7);
}

TEST(Transfers, AnExactRequestComputesWhatWasSavedCold) {
  FakeStore store;
  SaveConversation(store, kColdTiers);
  TransferRig rig(store, kManyUnits, kColdTiers);
  rig.Add(7, Counting(15), 4, KvFidelity::kExact);
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 15}}));
}

TEST(Transfers, AnEngineHeldToHotPagesTakesNoColdOnes) {
  FakeStore store;
  SaveConversation(store, kColdTiers);
  TransferRig rig(store, kManyUnits);
  rig.Add(7, Counting(15));
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 15}}));
}

TEST(Transfers, APrefetchBringsPagesIntoTheCacheAndComputesNothing) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, kManyUnits);
  Request request;
  request.id = 7;
  request.prompt = Counting(15);
  request.prefetch_only = true;
  rig.Submit(std::move(request));
  rig.Step();
  EXPECT_TRUE(rig.scheduler.PrefetchedSequences().empty());
  rig.EndTransfers();
  ASSERT_EQ(rig.scheduler.PrefetchedSequences().size(), 1U);
  EXPECT_EQ(rig.scheduler.PrefetchedSequences()[0]->num_cached, 12);
  EXPECT_TRUE(rig.Step().empty());
  rig.scheduler.Finish(7, 0);
  EXPECT_EQ(rig.pool->num_evictable(), 3U);
  rig.Add(8, Counting(15));
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{8, 3}}));  // at once
}

TEST(Transfers, ASavedPageIsEvictedOnlyOnceItHasBeenRead) {
  FakeStore store;
  TransferRig rig(store, 52);  // 13 hot pages
  rig.Add(1, Counting(14));
  while (rig.scheduler.has_work()) {
    rig.Step();
  }
  rig.Take();
  ASSERT_EQ(rig.transfers.size(), 4U);
  rig.Add(2, Counting(46, 100), 2);  // wants 12 pages
  rig.Step();
  rig.Step();
  rig.Step();
  rig.EndTransfers();
  EXPECT_EQ(store.pages.size(), 4U);
  rig.RunAll();
  rig.ExpectWholeOutput(2);
  rig.Add(3, Counting(15));  // what was evicted comes back whole
  rig.RunAll();
  rig.ExpectWholeOutput(3);
}

TEST(Transfers, AFullArenaLoadsWhatFitsAndComputesTheRest) {
  FakeStore store;
  SaveConversation(store);
  TransferRig rig(store, 52);
  rig.Add(1, Counting(40, 200), 6);
  rig.Step();
  rig.Step();
  rig.Step();
  rig.Add(7, Counting(15));
  rig.RunAll();
  rig.ExpectWholeOutput(1);
  rig.ExpectWholeOutput(7);
  rig.ExpectNothingHeld();
}

// Random prompts that begin alike, on an arena that is always short, in processes that follow each
// other over one store; transfers end late, or fail.
TEST(Transfers, ConversationsThatComeBackAtRandomGiveTheTextTheyWouldHaveGiven) {
  FakeStore store;
  std::mt19937 random(7);
  uint64_t restored = 0;
  for (int process = 0; process < 30; ++process) {
    const TierConfig tiers = process % 2 == 0 ? kColdTiers : TierConfig{};
    TransferRig rig(store, 60, tiers);
    RequestId next = 1;
    for (int i = 0; i < 60; ++i) {
      if (random() % 3 == 0) {
        std::vector<TokenId> prompt =
            Counting(static_cast<int>(random() % 20 + 1), static_cast<TokenId>(random() % 4) * 100);
        prompt.push_back(static_cast<TokenId>(random() % 3));
        rig.Add(next++, std::move(prompt), static_cast<int>(random() % 12 + 1));
      }
      if (random() % 20 == 0 && next > 1) {
        const RequestId id = random() % (next - 1) + 1;
        rig.scheduler.Cancel(id);
        rig.requests.erase(id);
      }
      rig.Step();
      for (size_t ends = random() % 4; ends > 0 && !rig.transfers.empty(); --ends) {
        rig.EndOneTransfer(random() % 8 > 0);
      }
    }
    rig.RunAll();
    rig.EndTransfers();
    for (const auto& [id, request] : rig.requests) {
      rig.ExpectWholeOutput(id);
    }
    rig.ExpectNothingHeld();
    restored += rig.scheduler.stats().restored_tokens;
  }
  EXPECT_GT(restored, 1000U);
}

}  // namespace
}  // namespace thermocline
