#include "scheduler/store_traffic.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/scheduler/transfer_rig.h"

namespace thermocline {
namespace {

using Kind = PageTransfer::Kind;

constexpr uint64_t kNow = 500;

// Pages of one conversation, four tokens each, and a store that has what a test puts there.
class StoreTrafficTest : public testing::Test {
 protected:
  // Cached pages of `tokens`, the last released first.
  std::vector<PageId> CachePages(const std::vector<TokenId>& tokens) {
    std::vector<PageId> pages;
    ContentHash chain = cache_.Root("default");
    for (size_t i = 0; (i + 1) * 4 <= tokens.size(); ++i) {
      const auto page_tokens = std::span(tokens).subspan(i * 4, 4);
      const ContentHash next = cache_.Next(chain, page_tokens);
      const PageId page = pool_->Allocate(kAnyTier).value();
      pool_->MarkFull(page, static_cast<int32_t>(i * 4));
      cache_.Insert(page, "default", page_tokens, chain, i == 0, next);
      pages.push_back(page);
      chain = next;
    }
    for (size_t i = pages.size(); i > 0; --i) {
      pool_->Release(pages[i - 1], kAnyTier);
    }
    return pages;
  }
  void Move(PageId page, Tier to) { ASSERT_TRUE(pool_->BeginMove(page, to).value().Commit(0)); }
  void Store(const ContentHash& name, Tier tier, Tier loss) {
    FakeStore::Page& page = store_.pages[name.low];
    page.tier = tier;
    page.content.hash = name;
    page.content.loss = loss;
  }
  Sequence SequenceOf(std::vector<TokenId> tokens) {
    Sequence sequence;
    Request request;
    request.prompt = tokens;
    sequence.request = std::make_shared<const Request>(std::move(request));
    sequence.tokens = std::move(tokens);
    return sequence;
  }
  static std::vector<PageId> PagesOf(const std::vector<PageTransfer>& transfers) {
    std::vector<PageId> pages;
    for (const PageTransfer& transfer : transfers) {
      pages.push_back(transfer.page);
    }
    return pages;
  }

  FakeStore store_;
  std::unique_ptr<PagePool> pool_ = MakeArchivingPool(800);
  PrefixCache cache_{*pool_, 1};
  TierController tiers_{{.policy = KvPolicy::kAdaptive, .archives = true}, *pool_};
  StoreTraffic traffic_{*pool_, cache_, tiers_, &store_};
};

TEST_F(StoreTrafficTest, APageIsQueuedOnceAndOnlyWhileTheStoreHasNoCopyAsGood) {
  const std::vector<PageId> pages = CachePages(Counting(12));
  const PageId unhashed = pool_->Allocate(kAnyTier).value();
  Store(pool_->hash(pages[0]), Tier::kHot, Tier::kHot);
  Store(pool_->hash(pages[1]), Tier::kCold, Tier::kCold);
  for (const PageId page : {pages[0], pages[1], pages[1], pages[2], unhashed}) {
    traffic_.SaveLater(page);
  }
  const std::vector<PageTransfer> transfers = traffic_.Take();
  EXPECT_EQ(PagesOf(transfers), (std::vector<PageId>{pages[1], pages[2]}));
  EXPECT_EQ(transfers[1].kind, Kind::kSave);
  EXPECT_EQ(transfers[1].content.tokens, Counting(4, 8));
  EXPECT_EQ(transfers[1].content.first_position, 8);
  traffic_.SaveLater(pages[2]);  // it is being saved
  EXPECT_FALSE(traffic_.has_transfers_to_take());
}

TEST_F(StoreTrafficTest, SixteenSavesAreInFlightAtMost) {
  CachePages(Counting(80));
  traffic_.SaveCachedPages();
  const std::vector<PageTransfer> transfers = traffic_.Take();
  EXPECT_EQ(transfers.size(), 16U);
  EXPECT_FALSE(traffic_.has_transfers_to_take());
  EXPECT_TRUE(traffic_.Take().empty());
  EXPECT_TRUE(traffic_.End({.transfer = transfers[0], .ok = true}, kNow));
  EXPECT_FALSE(traffic_.End({.transfer = transfers[1], .ok = false}, kNow));
  EXPECT_TRUE(pool_->is_saved(transfers[0].page));
  EXPECT_FALSE(pool_->is_saved(transfers[1].page));
  EXPECT_EQ(traffic_.Take().size(), 2U);
  EXPECT_TRUE(traffic_.has_transfers());
}

TEST_F(StoreTrafficTest, AMovingPageIsSavedLaterAndAnEvictedOneNever) {
  const std::vector<PageId> pages = CachePages(Counting(8));
  traffic_.SaveCachedPages();
  std::optional<PendingMove> move = pool_->BeginMove(pages[0], Tier::kCold);
  pool_->Forget(pages[1]);
  EXPECT_TRUE(traffic_.Take().empty());
  move.reset();
  EXPECT_EQ(PagesOf(traffic_.Take()), std::vector<PageId>{pages[0]});
  EXPECT_TRUE(traffic_.Take().empty());
}

TEST_F(StoreTrafficTest, APrefixIsSavedAsFarAsItIsToBeHad) {
  const std::vector<TokenId> tokens = Counting(16);
  const std::vector<PageId> pages = CachePages(tokens);
  const std::vector<ContentHash> names = cache_.NamesOf("default", tokens);
  Store(names[0], Tier::kHot, Tier::kHot);
  pool_->Forget(pages[3]);
  const SavedPrefix prefix = traffic_.SavePrefix(names);
  EXPECT_EQ(prefix.pages, (std::vector<ContentHash>{names[0], names[1], names[2]}));
  EXPECT_EQ(PagesOf(prefix.transfers), (std::vector<PageId>{pages[1], pages[2]}));
}

TEST_F(StoreTrafficTest, LoadsStopWhereTheStoreEndsOrTheRequestRefuses) {
  const Sequence sequence = SequenceOf(Counting(21));
  const std::vector<ContentHash> names = cache_.NamesOf("default", sequence.tokens);
  for (const size_t i : {0U, 1U, 2U, 4U}) {
    Store(names[i], i == 1 ? Tier::kWarm : Tier::kHot, i == 2 ? Tier::kCold : Tier::kWarm);
  }
  const ContentHash root = cache_.Root("default");
  EXPECT_TRUE(traffic_.BeginLoads(sequence, root, Tier::kHot).empty());
  EXPECT_EQ(traffic_.BeginLoads(sequence, root, Tier::kWarm).size(), 2U);
  EXPECT_EQ(traffic_.Take().size(), 2U);
  const std::vector<PageId> pages = traffic_.BeginLoads(sequence, root, kAnyTier);
  ASSERT_EQ(pages.size(), 3U);  // the fourth is missing
  EXPECT_TRUE(traffic_.has_begun());
  const std::vector<PageTransfer> transfers = traffic_.Take();
  EXPECT_EQ(PagesOf(transfers), pages);
  for (size_t i = 0; i < pages.size(); ++i) {
    EXPECT_EQ(transfers[i].kind, Kind::kLoad);
    EXPECT_EQ(transfers[i].content.hash, names[i]);
    EXPECT_EQ(transfers[i].content.first_position, static_cast<int>(i) * 4);
    EXPECT_EQ(transfers[i].place, pool_->page_map()[pages[i]]);
  }
  EXPECT_EQ(pool_->tier(pages[1]), Tier::kWarm);
}

TEST_F(StoreTrafficTest, ThePageOfTheLastTokenIsNeverLoaded) {
  const Sequence sequence = SequenceOf(Counting(8));
  for (const ContentHash& name : cache_.NamesOf("default", sequence.tokens)) {
    Store(name, Tier::kHot, Tier::kHot);
  }
  EXPECT_EQ(traffic_.BeginLoads(sequence, cache_.Root("default"), kAnyTier).size(), 1U);
}

TEST_F(StoreTrafficTest, ALoadThatFailsOrIsWorseThanTheStoreHadSaidHasNoBytes) {
  const Sequence sequence = SequenceOf(Counting(13));
  for (const ContentHash& name : cache_.NamesOf("default", sequence.tokens)) {
    Store(name, Tier::kHot, Tier::kHot);
  }
  const std::vector<PageId> pages =
      traffic_.BeginLoads(sequence, cache_.Root("default"), Tier::kHot);
  std::vector<PageTransfer> transfers = traffic_.Take();
  ASSERT_EQ(transfers.size(), 3U);
  transfers[2].content.loss = Tier::kCold;
  EXPECT_TRUE(traffic_.End({.transfer = transfers[0], .ok = true}, kNow));
  EXPECT_FALSE(traffic_.End({.transfer = transfers[1], .ok = false}, kNow));
  EXPECT_FALSE(traffic_.End({.transfer = transfers[2], .ok = true}, kNow));
  EXPECT_EQ(pool_->num_transferring(), 0U);
  EXPECT_TRUE(pool_->is_saved(pages[0]));
}

TEST_F(StoreTrafficTest, OnlyPagesWithACopyToWakeFromAreArchivedAndItIsPinnedMeanwhile) {
  const std::vector<PageId> pages = CachePages(Counting(12));
  std::vector<PendingMove> moves;
  for (const PageId page : pages) {
    Move(page, Tier::kCold);
    moves.push_back(pool_->BeginMove(page, Tier::kArchive).value());
  }
  Store(pool_->hash(pages[0]), Tier::kCold, Tier::kCold);
  Store(pool_->hash(pages[1]), Tier::kArchive, Tier::kArchive);  // nothing to wake from
  traffic_.KeepBacked(moves);
  ASSERT_EQ(moves.size(), 1U);
  EXPECT_EQ(moves[0].move().page, pages[0]);
  EXPECT_EQ(pool_->num_moving(), 1U);  // the others are aborted
  EXPECT_EQ(store_.num_pinned(), 1);
  ASSERT_TRUE(std::move(moves[0]).Commit(0));
  traffic_.ReleasePins();
  EXPECT_EQ(store_.num_pinned(), 1);
  pool_->Forget(pages[0]);
  traffic_.ReleasePins();
  EXPECT_EQ(store_.num_pinned(), 0);
}

TEST_F(StoreTrafficTest, APinGoesWithTheMoveThatWasNotMade) {
  const std::vector<PageId> pages = CachePages(Counting(4));
  Move(pages[0], Tier::kCold);
  Store(pool_->hash(pages[0]), Tier::kHot, Tier::kHot);
  std::vector<PendingMove> moves;
  moves.push_back(pool_->BeginMove(pages[0], Tier::kArchive).value());
  traffic_.KeepBacked(moves);
  EXPECT_EQ(store_.num_pinned(), 1);
  moves.clear();
  traffic_.ReleasePins();
  EXPECT_EQ(store_.num_pinned(), 0);
}

TEST_F(StoreTrafficTest, ArchivedPagesWakeIntoTheTierOfTheirCopyOrAreCounted) {
  const std::vector<PageId> pages = CachePages(Counting(16));
  for (const PageId page : {pages[0], pages[1], pages[2]}) {
    Move(page, Tier::kArchive);
  }
  Store(pool_->hash(pages[0]), Tier::kHot, Tier::kHot);
  Store(pool_->hash(pages[1]), Tier::kWarm, Tier::kWarm);
  EXPECT_TRUE(traffic_.WakeAll(pages));  // the third has no copy, the fourth is hot
  EXPECT_EQ(traffic_.num_unwoken(), 1U);
  const std::vector<PageTransfer> transfers = traffic_.Take();
  EXPECT_EQ(PagesOf(transfers), (std::vector<PageId>{pages[0], pages[1]}));
  EXPECT_TRUE(traffic_.WakeAll(pages));
  EXPECT_TRUE(traffic_.Take().empty());  // they are being woken already
  FinishedTransfer woken{.transfer = transfers[0], .ok = true};
  woken.transfer.content.loss = Tier::kHot;
  EXPECT_TRUE(traffic_.End(woken, kNow));
  EXPECT_FALSE(traffic_.End({.transfer = transfers[1], .ok = false}, kNow));
  EXPECT_EQ(pool_->tier(pages[0]), Tier::kHot);
  EXPECT_FALSE(pool_->is_lossy(pages[0]));
  EXPECT_EQ(pool_->heat(pages[0]).move_step, kNow);
  EXPECT_EQ(pool_->tier(pages[1]), Tier::kArchive);
  EXPECT_EQ(traffic_.num_woken(), 1U);
  EXPECT_EQ(traffic_.num_unwoken(), 3U);  // twice asked for in vain, once not read
}

// Four times the median of the archived ones, twice in a row, and no less than a thousandth.
TEST_F(StoreTrafficTest, APageWakesWhenItsEnergyHasJumpedTwiceInARow) {
  const std::vector<PageId> pages = CachePages(Counting(20));
  for (const PageId page : pages) {
    Move(page, Tier::kArchive);
    Store(pool_->hash(page), Tier::kHot, Tier::kHot);
  }
  const auto sample = [&](float third) {
    std::vector<PageHeat> heat(5, {.peak = 0.01F});
    heat[2].peak = third;
    traffic_.WakeJumped(pages, heat);
    return traffic_.Take().size();
  };
  EXPECT_EQ(sample(0.041F), 0U);
  EXPECT_EQ(sample(0.039F), 0U);
  EXPECT_EQ(sample(0.041F), 0U);
  EXPECT_EQ(sample(0.041F), 1U);
  EXPECT_TRUE(pool_->is_waking(pages[2]));
}

TEST(StoreTraffic, WithoutAStoreNothingIsTransferred) {
  const auto pool = MakeArchivingPool(80);
  PrefixCache cache(*pool, 1);
  const TierController tiers({.policy = KvPolicy::kAdaptive}, *pool);
  StoreTraffic traffic(*pool, cache, tiers, nullptr);
  const PageId page = pool->Allocate(kAnyTier).value();
  pool->MarkFull(page, 0);
  ASSERT_TRUE(pool->SetHash(page, {1, 1}, std::nullopt));
  traffic.SaveLater(page);
  EXPECT_FALSE(traffic.has_transfers());
  ASSERT_TRUE(pool->BeginMove(page, Tier::kArchive).value().Commit(0));
  EXPECT_FALSE(traffic.WakeAll(std::vector<PageId>{page}));
  std::vector<PendingMove> moves;
  traffic.KeepBacked(moves);
  EXPECT_TRUE(traffic.Take().empty());
}

}  // namespace
}  // namespace thermocline
