#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr int kVocab = 1000;
constexpr int kPageTokens = 4;

std::vector<TokenId> Counting(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// What has been saved: the states of a page under its hash.
class FakeStore : public PageFinder {
 public:
  struct Page {
    Tier tier = Tier::kHot;
    PageContent content;
    std::vector<uint64_t> states;
  };

  std::optional<Info> Find(const ContentHash& hash) const override {
    const auto found = pages.find(hash.low);
    return found == pages.end()
               ? std::nullopt
               : std::optional(Info{found->second.tier, found->second.content.lossy});
  }

  std::map<uint64_t, Page> pages;
};

// One process: a scheduler over an arena of its own and a store that may be older than it. The
// transfers are made when the test says so.
class Rig {
 public:
  Rig(FakeStore& store, int num_units, const TierConfig& tiers = {})
      : pool(MakeTieredPool(num_units)),
        scheduler({.max_num_seqs = 4,
                   .max_num_batched_tokens = 16,
                   .max_model_len = 48,
                   .prefix_hash_key = 1,
                   .tiers = tiers},
                  *pool, &store),
        runner(*pool, kVocab),
        store_(store) {}

  void Add(RequestId id, std::vector<TokenId> prompt, int max_tokens = 4,
           KvFidelity fidelity = KvFidelity::kBalanced) {
    Request request;
    request.id = id;
    request.prompt = std::move(prompt);
    request.stop.max_tokens = max_tokens;
    request.kv_fidelity = fidelity;
    Submit(std::move(request));
  }
  void Submit(Request request) {
    const RequestId id = request.id;
    requests[id] = std::make_shared<const Request>(std::move(request));
    ASSERT_TRUE(scheduler.Add(requests[id]).ok());
  }

  // The tokens that each request computed in one step.
  std::map<RequestId, int> Step() {
    for (int round = 0; round < 4; ++round) {
      const MovePlan moves = scheduler.ProposeMoves();
      runner.StartMoves(moves.moves);
      scheduler.EndMoves(runner.FinishedMoves(true));
    }
    const StepPlan plan = scheduler.Schedule();
    Take();
    const RunResult result = runner.Run(plan).value();
    std::map<RequestId, int> ran;
    std::vector<RequestId> ended;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const Sequence& sequence = *plan.sequences[i].sequence;
      const RequestId id = sequence.request->id;
      ran[id] = plan.sequences[i].num_tokens;
      cached[id] = sequence.num_cached;
      auto& text = output[id];
      text.insert(text.end(), result.step.accepted[i].begin(), result.step.accepted[i].end());
      if (static_cast<int>(text.size()) >= sequence.request->stop.max_tokens) {
        ended.push_back(id);
      }
    }
    scheduler.Update(plan, result.step);
    for (const RequestId id : ended) {
      scheduler.Finish(id, 0);
    }
    return ran;
  }

  void Take() {
    for (PageTransfer& transfer : scheduler.TakeTransfers()) {
      transfers.push_back(std::move(transfer));
    }
  }

  void EndOneTransfer(bool ok = true) {
    ASSERT_FALSE(transfers.empty());
    FinishedTransfer end{.transfer = transfers.front(), .ok = ok};
    transfers.pop_front();
    PageContent& content = end.transfer.content;
    const PageEntry place = end.transfer.place;
    if (ok && end.transfer.kind == PageTransfer::Kind::kSave) {
      store_.pages[content.hash.low] = {place.tier(), content, runner.StatesAt(place)};
    } else if (ok) {
      const FakeStore::Page& page = store_.pages.at(content.hash.low);
      ASSERT_EQ(page.tier, place.tier());
      ASSERT_EQ(page.content.tokens, content.tokens);
      ASSERT_EQ(page.content.first_position, content.first_position);
      ASSERT_TRUE(page.content.previous == content.previous);
      runner.SetStatesAt(place, page.states, content.first_position);
      content.lossy = page.content.lossy;
      content.checksum = page.content.checksum;
    }
    scheduler.EndTransfers(std::span(&end, 1));
    ASSERT_TRUE(pool->Audit().ok()) << pool->Audit().message();
  }
  void EndTransfers() {
    for (Take(); !transfers.empty(); Take()) {
      EndOneTransfer();
    }
  }

  void RunAll() {
    for (int i = 0; i < 1000 && scheduler.has_work(); ++i) {
      Step();
      EndTransfers();
    }
    ASSERT_FALSE(scheduler.has_work());
  }
  void ExpectWholeOutput(RequestId id) {
    const Request& request = *requests.at(id);
    EXPECT_EQ(output[id],
              FakeRunner::ExpectedOutput(request.prompt, 0, request.stop.max_tokens, kVocab));
  }
  void ExpectNothingHeld() {
    EXPECT_EQ(pool->num_transferring(), 0U);
    for (const PageId page : pool->OldestCached(pool->num_evictable())) {
      EXPECT_EQ(pool->num_refs(page), 0);
    }
    EXPECT_TRUE(pool->Audit().ok()) << pool->Audit().message();
  }

  std::unique_ptr<PagePool> pool;
  Scheduler scheduler;
  FakeRunner runner;
  std::map<RequestId, std::shared_ptr<const Request>> requests;
  std::map<RequestId, std::vector<TokenId>> output;
  std::map<RequestId, int> cached;
  std::deque<PageTransfer> transfers;  // taken, in order

 private:
  FakeStore& store_;
};

constexpr int kManyUnits = 160;

// What a process that ran one conversation has left: four pages of its 18 tokens.
void SaveConversation(FakeStore& store, const TierConfig& tiers = {}) {
  Rig rig(store, kManyUnits, tiers);
  rig.Add(1, Counting(14));
  rig.RunAll();
  rig.ExpectNothingHeld();
}

TEST(Transfers, FullPagesAreSavedOnceTheyAreReleased) {
  FakeStore store;
  Rig rig(store, kManyUnits);
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

TEST(Transfers, ARestartedProcessGetsThePagesBackAndComputesTheRest) {
  FakeStore store;
  SaveConversation(store);
  Rig rig(store, kManyUnits);
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
    Rig rig(store, kManyUnits);
    rig.Add(1, conversation);
    rig.RunAll();
    conversation.insert(conversation.end(), rig.output[1].begin(), rig.output[1].end());
  }
  conversation.push_back(500);
  Rig rig(store, kManyUnits);
  rig.Add(2, conversation);
  rig.RunAll();
  rig.ExpectWholeOutput(2);
  EXPECT_EQ(rig.cached[2], 16);  // the answer's pages too
}

TEST(Transfers, APageThatDoesNotComeIsComputedWithAllAfterIt) {
  FakeStore store;
  SaveConversation(store);
  Rig rig(store, kManyUnits);
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
  Rig rig(store, kManyUnits);
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
  Rig rig(store, kManyUnits);
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
  Rig rig(store, kManyUnits);
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
  Rig rig(store, kManyUnits, kColdTiers);
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
  Rig rig(store, kManyUnits, kColdTiers);
  rig.Add(7, Counting(15), 4, KvFidelity::kExact);
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 15}}));
}

TEST(Transfers, AnEngineHeldToHotPagesTakesNoColdOnes) {
  FakeStore store;
  SaveConversation(store, kColdTiers);
  Rig rig(store, kManyUnits);
  rig.Add(7, Counting(15));
  EXPECT_EQ(rig.Step(), (std::map<RequestId, int>{{7, 15}}));
}

TEST(Transfers, APrefetchBringsPagesIntoTheCacheAndComputesNothing) {
  FakeStore store;
  SaveConversation(store);
  Rig rig(store, kManyUnits);
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
  Rig rig(store, 52);  // 13 hot pages
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
  Rig rig(store, 52);
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
    Rig rig(store, 60, tiers);
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
