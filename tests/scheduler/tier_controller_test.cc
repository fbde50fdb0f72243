#include "scheduler/tier_controller.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr uint64_t kManySteps = 1000;

// A thousand hot pages of four units each, so that a page is a thousandth of the arena.
class TierControllerTest : public testing::Test {
 protected:
  // Until `count` pages are in use, all of one sequence, hot and full.
  void Use(size_t count) {
    while (pages_.size() < count) {
      const PageId page = pool_->Allocate(kAnyTier).value();
      pool_->MarkFull(page, 0);
      pool_->heat(page) = {.peak_step = kManySteps, .move_step = 1};
      pages_.push_back(page);
    }
    while (pages_.size() > count) {
      pool_->Release(pages_.back(), kAnyTier);
      pages_.pop_back();
    }
  }
  ProposedMoves Propose(size_t pages_wanted = 1) {
    const std::vector<SequencePages> sequences = {
        {.pages = pages_, .num_settled = pages_.size(), .fidelity = KvFidelity::kMax}};
    return controller_.Propose(sequences, kManySteps, pages_wanted);
  }
  // How many moves are proposed; they are not made.
  size_t NumProposed() { return Propose().moves.size(); }

  std::unique_ptr<PagePool> pool_ = MakeTieredPool(4000);
  TierController controller_{{.policy = KvPolicy::kAdaptive}, *pool_};
  std::vector<PageId> pages_;
};

TEST_F(TierControllerTest, TheRateIsProportionalToWhatIsAboveTheMarkAndGrowsWhileItStaysThere) {
  controller_.set_max_background_moves(1000);
  Use(760);
  // 6 % above the mark: 4 moves for each, and a quarter of what has summed up before.
  EXPECT_EQ(NumProposed(), 24U);
  EXPECT_EQ(NumProposed(), 25U);  // 24 + 6 / 4, of which a half is left over
  EXPECT_EQ(NumProposed(), 27U);  // 24 + 12 / 4 and the half
  Use(800);
  EXPECT_EQ(NumProposed(), 45U);  // 10 % above: 40 + 18 / 4, with half of a move left before
}

TEST_F(TierControllerTest, TheEngineBoundsTheRateAndTheSumDoesNotWindUpMeanwhile) {
  controller_.set_max_background_moves(3);
  Use(760);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(NumProposed(), 3U);
  }
  controller_.set_max_background_moves(1000);
  EXPECT_EQ(NumProposed(), 24U);
}

TEST_F(TierControllerTest, DemotionStartsAtThreeQuartersAndGoesOnToSevenTenths) {
  controller_.set_max_background_moves(1000);
  Use(740);
  EXPECT_EQ(NumProposed(), 0U);
  Use(760);
  EXPECT_EQ(NumProposed(), 24U);
  Use(730);
  EXPECT_EQ(NumProposed(), 13U);  // 12 + 6 / 4
  Use(690);
  EXPECT_EQ(NumProposed(), 0U);
  Use(740);
  EXPECT_EQ(NumProposed(), 0U);
  Use(760);
  EXPECT_EQ(NumProposed(), 24U);  // what had summed up is forgotten; half a move was left
}

TEST_F(TierControllerTest, AStepThatFindsTooFewPagesIsPrecededByMovesThatItWaitsFor) {
  Use(900);
  const size_t num_free = pool_->num_free();
  ProposedMoves proposed = Propose(num_free + 20);
  EXPECT_TRUE(proposed.wait);
  ASSERT_FALSE(proposed.moves.empty());
  const MovePlan plan = controller_.Start(std::move(proposed));
  // While these hold two slots each, nothing is begun.
  const ProposedMoves next = Propose(num_free + 20);
  EXPECT_TRUE(next.wait);
  EXPECT_TRUE(next.moves.empty());
  std::vector<FinishedMove> finished;
  for (const PageMove& move : plan.moves) {
    finished.push_back({.move = move, .result = {}});
  }
  EXPECT_TRUE(controller_.End(finished, kManySteps).empty());
  EXPECT_GE(pool_->num_free(), num_free + 20);
}

TEST_F(TierControllerTest, EachMoveEndsAsItsCopyDid) {
  using Outcome = MoveResult::Outcome;
  Use(4);
  std::vector<FinishedMove> finished;
  for (const auto& [page, outcome] :
       {std::pair(pages_[0], Outcome::kOk), std::pair(pages_[1], Outcome::kNotFinite),
        std::pair(pages_[2], Outcome::kCorrupt), std::pair(pages_[3], Outcome::kDeviceError)}) {
    finished.push_back({.move = controller_.Start(pool_->BeginMove(page, Tier::kCold).value()),
                        .result = {.outcome = outcome, .checksum = 7}});
  }
  std::swap(finished[0], finished[3]);  // in any order
  EXPECT_EQ(controller_.End(finished, kManySteps), std::vector<PageId>{pages_[2]});
  EXPECT_EQ(pool_->num_moving(), 0U);
  EXPECT_EQ(pool_->tier(pages_[0]), Tier::kCold);
  EXPECT_EQ(pool_->checksum(pages_[0]), 7U);
  EXPECT_EQ(pool_->heat(pages_[0]).move_step, kManySteps);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(pool_->tier(pages_[i]), Tier::kHot);
    EXPECT_EQ(pool_->is_pinned(pages_[i]), i < 3);
  }
  const TierStats& stats = controller_.stats();
  EXPECT_EQ(stats.moves[static_cast<size_t>(Tier::kCold)], 1U);
  EXPECT_EQ(stats.not_finite, 1U);
  EXPECT_EQ(stats.corrupt, 1U);
  EXPECT_EQ(stats.device_errors, 1U);
}

TEST_F(TierControllerTest, AMoveThatWasNeverStartedCannotEnd) {
  Use(1);
  const PendingMove pending = pool_->BeginMove(pages_[0], Tier::kCold).value();
  const std::vector<FinishedMove> finished = {{.move = pending.move(), .result = {}}};
  EXPECT_DEATH(controller_.End(finished, kManySteps), "CHECK failed");
}

TEST_F(TierControllerTest, MovesWhoseCopiesNeverEndAreAbortedWithIt) {
  Use(1);
  {
    TierController controller({.policy = KvPolicy::kAdaptive}, *pool_);
    controller.Start(pool_->BeginMove(pages_[0], Tier::kCold).value());
    EXPECT_EQ(pool_->num_moving(), 1U);
  }
  EXPECT_EQ(pool_->num_moving(), 0U);
  EXPECT_EQ(pool_->tier(pages_[0]), Tier::kHot);
  EXPECT_TRUE(pool_->Audit().ok());
}

// The window is 192 tokens, 48 pages; hot pages take four units, warm two, cold one.
TEST_F(TierControllerTest, ColdBytesCountThePagesThatStayWarmer) {
  const auto units = [&](size_t num_pages, bool in_prompt, KvFidelity fidelity) {
    return controller_.ColdBytes(num_pages, in_prompt, fidelity) / kArenaUnitBytes;
  };
  EXPECT_EQ(units(100, false, KvFidelity::kBalanced), 1U * 4 + 49 * 2 + 50);
  EXPECT_EQ(units(100, true, KvFidelity::kBalanced), 2U * 4 + 49 * 2 + 49);
  EXPECT_EQ(units(100, false, KvFidelity::kHigh), 1U * 4 + 99 * 2);
  EXPECT_EQ(units(100, false, KvFidelity::kExact), 400U);
  EXPECT_EQ(units(3, false, KvFidelity::kBalanced), 1U * 4 + 2 * 2);
  EXPECT_EQ(units(0, true, KvFidelity::kBalanced), 0U);
}

TEST(TierController, HotPagesAreNeverDemotedUnderAHotPolicy) {
  const auto pool = MakeTieredPool(40);
  TierController controller({.policy = KvPolicy::kHot}, *pool);
  std::vector<PageId> pages;
  while (const std::optional<PageId> page = pool->Allocate(kAnyTier)) {
    pool->MarkFull(*page, 0);
    pages.push_back(*page);
  }
  EXPECT_EQ(pages.size(), 10U);  // no reserve either
  const std::vector<SequencePages> sequences = {{.pages = pages, .num_settled = pages.size()}};
  const ProposedMoves proposed = controller.Propose(sequences, kManySteps, 5);
  EXPECT_TRUE(proposed.moves.empty());
  EXPECT_FALSE(proposed.wait);
}

}  // namespace
}  // namespace thermocline
