// A request reads only pages whose loss its fidelity accepts, whatever becomes of them while it
// runs. FakeRunner knows the loss of every position from what it has copied and read itself.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "tests/scheduler/transfer_rig.h"

namespace thermocline {
namespace {

constexpr TierConfig kAdaptive = {.policy = KvPolicy::kAdaptive, .window_tokens = 4};
constexpr int kMaxModelLen = 200;

class FidelityTest : public testing::Test {
 protected:
  // With room for all: nothing cools but by the test's hand.
  TransferRig MakeRig() { return {store_, MakeArchivingPool(800), kAdaptive, kMaxModelLen}; }
  static void Move(TransferRig& rig, PageId page, Tier to) { End(rig, Begin(rig, page, to)); }
  static PageMove Begin(TransferRig& rig, PageId page, Tier to) {
    return rig.scheduler.tiers().Start(rig.pool->BeginMove(page, to).value());
  }
  static void End(TransferRig& rig, const PageMove& move) {
    rig.runner.StartMoves(std::span(&move, 1));
    rig.scheduler.EndMoves(rig.runner.FinishedMoves(/*wait=*/true));
  }
  static const Sequence& Running(const TransferRig& rig) {
    return *rig.scheduler.RunningSequences().at(0);
  }

  FakeStore store_;
};

TEST_F(FidelityTest, PagesWhoseDemotionIsUnderWayStayAsTheirNewReaderAcceptsThem) {
  for (const KvFidelity fidelity : {KvFidelity::kExact, KvFidelity::kHigh, KvFidelity::kBalanced}) {
    for (const Tier to : {Tier::kWarm, Tier::kCold}) {
      TransferRig rig = MakeRig();
      rig.Add(1, Counting(14));
      rig.RunAll();
      const PageId page = rig.pool->OldestCached(2).at(1);  // its third of four
      const PageMove move = Begin(rig, page, to);
      rig.Add(2, Counting(15), 8, fidelity);
      rig.Step();
      ASSERT_EQ(Running(rig).pages[2], page);
      const bool refused = AcceptedLoss(fidelity) < to;
      rig.runner.shows_loss_from = refused ? to : Tier::kBacked;
      End(rig, move);
      EXPECT_EQ(rig.pool->tier(page), refused ? Tier::kHot : to);
      EXPECT_EQ(rig.pool->is_lossy(page), !refused);
      EXPECT_EQ(rig.scheduler.tiers().stats().refused, refused ? 1U : 0U);
      rig.Step();
      EXPECT_EQ(Running(rig).reused_lossy, !refused);
      rig.RunAll();
      rig.ExpectWholeOutput(2);
      EXPECT_EQ(rig.cached[2], 12);
    }
  }
}

TEST_F(FidelityTest, ARequestOfHighFidelityReadsNothingThatWasComputedFromColdPages) {
  TransferRig rig = MakeRig();
  rig.Add(1, Counting(14), 12, KvFidelity::kMax);
  rig.Step();
  const PageId first = Running(rig).pages[0];
  Move(rig, first, Tier::kCold);
  rig.RunAll();
  std::vector<TokenId> conversation = Counting(14);
  conversation.insert(conversation.end(), rig.output[1].begin(), rig.output[1].end());
  // The first page comes back exact from elsewhere; what was computed from it cold stays so.
  rig.pool->Forget(first);
  store_.pages.clear();
  rig.Add(2, conversation, 4, KvFidelity::kHigh);
  rig.runner.shows_loss_from = Tier::kCold;
  rig.RunAll();
  rig.ExpectWholeOutput(2);
}

// Half of a page is computed from an archived page, which then gets its exact bytes back.
TEST_F(FidelityTest, APageIsAsLossyAsWhatItWasComputedFromHoweverThatWakes) {
  TransferRig rig = MakeRig();
  rig.Add(1, Counting(41), 1, KvFidelity::kExact);
  rig.RunAll();
  ASSERT_EQ(store_.pages.size(), 10U);
  rig.Add(2, Counting(42), 40, KvFidelity::kMax);
  rig.Step();
  const PageId page = Running(rig).pages[1];
  Move(rig, page, Tier::kCold);
  Move(rig, page, Tier::kArchive);
  do {
    rig.Step();
  } while (Running(rig).num_computed % 4 != 2);
  const auto index = static_cast<size_t>(Running(rig).num_computed / 4);
  const FakeStore::Page& saved = store_.pages.at(rig.pool->hash(page).low);
  ASSERT_EQ(saved.tier, Tier::kHot);
  const PageEntry place = rig.pool->BeginWake(page, Tier::kHot).value();
  rig.runner.SetStatesAt(place, saved.states, 4);
  rig.scheduler.EndTransfers(std::vector<FinishedTransfer>{
      {.transfer = {.kind = PageTransfer::Kind::kWake, .page = page, .place = place}, .ok = true}});
  EXPECT_FALSE(rig.pool->is_lossy(page));
  while (Running(rig).num_computed < static_cast<int>(index + 2) * 4) {
    rig.Step();
  }
  EXPECT_EQ(rig.pool->loss(Running(rig).pages[index]), Tier::kArchive);
  EXPECT_EQ(rig.pool->loss(Running(rig).pages[index + 1]), Tier::kArchive);
  std::vector<TokenId> conversation = Running(rig).tokens;
  rig.scheduler.Finish(2, 0);
  rig.EndTransfers();
  for (const Tier loss : {Tier::kHot, Tier::kArchive}) {
    rig.runner.shows_loss_from = loss == Tier::kHot ? Tier::kWarm : Tier::kBacked;
    const RequestId id = loss == Tier::kHot ? 3 : 4;
    rig.Add(id, conversation, 4, loss == Tier::kHot ? KvFidelity::kExact : KvFidelity::kMax);
    rig.RunAll();
    rig.ExpectWholeOutput(id);
    EXPECT_EQ(rig.cached[id] > static_cast<int>(index) * 4, loss == Tier::kArchive);
  }
}

TEST_F(FidelityTest, WhatTheStoreHasWorseThanItSaidIsComputed) {
  {
    TransferRig rig = MakeRig();
    rig.Add(1, Counting(14));
    rig.RunAll();
  }
  TransferRig rig = MakeRig();
  rig.Add(7, Counting(15), 8, KvFidelity::kExact);
  rig.Step();
  ASSERT_EQ(rig.transfers.size(), 3U);
  // Evicted meanwhile, and saved again by another that had read cold pages.
  FakeStore::Page& second = store_.pages.at(rig.transfers[1].content.hash.low);
  second.content.loss = Tier::kCold;
  std::fill(second.states.losses.begin(), second.states.losses.end(), Tier::kCold);
  rig.runner.shows_loss_from = Tier::kWarm;
  rig.RunAll();
  rig.ExpectWholeOutput(7);
  EXPECT_EQ(rig.cached[7], 4);
  rig.ExpectNothingHeld();
}

TEST_F(FidelityTest, RecordsSayWhatTheirPagesHaveBeenThrough) {
  constexpr TierConfig kCold = {.policy = KvPolicy::kCold, .window_tokens = 4};
  {
    TransferRig rig(store_, MakeArchivingPool(800), kCold, kMaxModelLen);
    rig.Add(1, Counting(14));
    rig.RunAll();
  }
  const std::map<KvFidelity, int> restored = {
      {KvFidelity::kExact, 0}, {KvFidelity::kHigh, 4}, {KvFidelity::kBalanced, 12}};
  for (const auto& [fidelity, num_tokens] : restored) {
    FakeStore store = store_;
    TransferRig rig(store, MakeArchivingPool(800), kAdaptive, kMaxModelLen);
    rig.Add(7, Counting(15), 4, fidelity);
    rig.RunAll();
    EXPECT_EQ(rig.cached[7], num_tokens);
  }
}

// Requests of every fidelity that begin alike, on an arena that is always short, in processes of
// every policy that follow each other over one store. Moves and transfers end late, or fail; bytes
// are found corrupt, archived pages wake, requests are cancelled and preempted.
class FidelityHistory {
 public:
  explicit FidelityHistory(uint32_t seed) : random_(seed) {}

  void RunProcess(FakeStore& store, const TierConfig& tiers, Tier shows_loss_from) {
    TransferRig rig(store, MakeArchivingPool(440), tiers, kMaxModelLen);
    rig.late_moves = true;
    rig.runner.shows_loss_from = shows_loss_from;
    rig.runner.seconds_per_move = 0;
    rig.scheduler.tiers().set_max_background_moves(8);
    rig.runner.heat = [&](const Sequence& /*sequence*/, size_t /*index*/) {
      return PageHeat{.peak = random_() % 12 == 0 ? 0.3F : 0.001F, .mean = 0.0001F};
    };
    rig.runner.move_outcome = [&](const PageMove& move) {
      const auto dice = random_() % 60;
      return dice == 0                                     ? MoveResult::Outcome::kDeviceError
             : dice == 1 && move.from.tier() != Tier::kHot ? MoveResult::Outcome::kCorrupt
                                                           : MoveResult::Outcome::kOk;
    };
    rig.runner.on_read = [&](const Sequence& sequence, Tier loss) {
      ASSERT_LE(loss, AcceptedLoss(sequence.request->kv_fidelity));
      num_lossy_reads += loss > Tier::kHot ? 1 : 0;
    };
    RequestId next = 1;
    for (int i = 0; i < 300; ++i) {
      if (random_() % 6 == 0) {
        Submit(rig, next++);
      }
      if (random_() % 25 == 0 && next > 1) {
        const RequestId id = random_() % (next - 1) + 1;
        rig.scheduler.Cancel(id);
        rig.requests.erase(id);
      }
      rig.Step();
      for (size_t ends = random_() % 5; ends > 0 && !rig.transfers.empty(); --ends) {
        rig.EndOneTransfer(random_() % 12 > 0);
      }
      if (random_() % 60 == 0) {
        store.EvictUnpinned();
      }
      ExpectTruth(rig);
    }
    for (const Sequence* sequence : rig.scheduler.PrefetchedSequences()) {
      rig.scheduler.Finish(sequence->request->id, 0);
    }
    rig.RunAll();
    rig.EndTransfers();
    for (const auto& [id, request] : rig.requests) {
      if (AcceptedLoss(request->kv_fidelity) < shows_loss_from && !request->prefetch_only) {
        rig.ExpectWholeOutput(id);
        num_shared += rig.cached[id] > 0 ? 1 : 0;
      }
    }
    num_refused += rig.scheduler.tiers().stats().refused;
    num_preemptions += rig.scheduler.stats().num_preemptions;
    num_restored += rig.scheduler.stats().restored_tokens;
    num_woken += rig.scheduler.stats().num_woken;
  }

  uint64_t num_refused = 0;
  uint64_t num_preemptions = 0;
  uint64_t num_restored = 0;
  uint64_t num_woken = 0;
  uint64_t num_lossy_reads = 0;
  uint64_t num_shared = 0;  // requests that had to give the text of hot pages and found some

 private:
  void Submit(TransferRig& rig, RequestId id) {
    std::vector<TokenId>& conversation = conversations_[random_() % 4];
    if (conversation.empty() || conversation.size() > 100) {
      conversation = Counting(41, static_cast<TokenId>(random_() % 3) * 100);
    }
    conversation.push_back(static_cast<TokenId>(random_() % 2));
    Request request;
    request.id = id;
    request.prompt = conversation;
    request.stop.max_tokens = static_cast<int>(random_() % 60 + 1);
    request.kv_fidelity = static_cast<KvFidelity>(random_() % 4);
    // The answer that hot pages give, which others may have given too.
    const std::vector<TokenId> output = FakeRunner::ExpectedOutput(
        request.prompt, 0, std::min(request.stop.max_tokens, 30), kVocab);
    conversation.insert(conversation.end(), output.begin(), output.end());
    rig.Submit(std::move(request));
  }

  // The pool knows the loss of each page that is read, no more and no less.
  void ExpectTruth(const TransferRig& rig) {
    for (const Sequence* sequence : rig.scheduler.RunningSequences()) {
      for (size_t i = 0; i < sequence->pages.size(); ++i) {
        const PageId page = sequence->pages[i];
        ASSERT_LE(rig.pool->loss(page), AcceptedLoss(sequence->request->kv_fidelity));
        if (static_cast<int>(i + 1) * 4 <= sequence->num_computed) {
          const auto losses = rig.runner.StatesAt(rig.pool->page_map()[page]).losses;
          ASSERT_EQ(rig.pool->loss(page), *std::max_element(losses.begin(), losses.end()));
        }
      }
    }
  }

  std::mt19937 random_;
  std::array<std::vector<TokenId>, 4> conversations_;
};

TEST(FidelityHistories, NoStepReadsWhatItsRequestRefuses) {
  uint64_t refused = 0;
  uint64_t preemptions = 0;
  uint64_t restored = 0;
  uint64_t woken = 0;
  uint64_t lossy_reads = 0;
  uint64_t shared = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    FidelityHistory history(seed);
    FakeStore store;
    for (const TierConfig& tiers :
         {kAdaptive, TierConfig{.policy = KvPolicy::kAdaptive, .budget = 0.25, .window_tokens = 4},
          TierConfig{.policy = KvPolicy::kCold, .window_tokens = 4}, kAdaptive,
          TierConfig{.policy = KvPolicy::kHot}}) {
      history.RunProcess(store, tiers, seed % 2 == 0 ? Tier::kWarm : Tier::kCold);
      if (testing::Test::HasFatalFailure()) {
        FAIL() << "seed " << seed;
      }
    }
    refused += history.num_refused;
    preemptions += history.num_preemptions;
    restored += history.num_restored;
    woken += history.num_woken;
    lossy_reads += history.num_lossy_reads;
    shared += history.num_shared;
  }
  // The histories do reach what they are for.
  EXPECT_GT(refused, 20U);
  EXPECT_GT(preemptions, 50U);
  EXPECT_GT(restored, 1000U);
  EXPECT_GT(woken, 20U);
  EXPECT_GT(lossy_reads, 1000U);
  EXPECT_GT(shared, 100U);
}

}  // namespace
}  // namespace thermocline
