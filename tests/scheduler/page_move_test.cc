#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "scheduler/page_pool.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

PageId Take(PagePool& pool) {
  const PageId page = pool.Allocate(kAnyTier).value();
  pool.MarkFull(page, 0);
  return page;
}

TEST(PageMove, PageKeepsItsIdAndIsReadableWhereItWasUntilTheSwitch) {
  const auto pool = MakeTieredPool(8);
  const PageId page = Take(*pool);
  pool->AddRef(page, kAnyTier);
  const PageEntry before = pool->page_map()[page];
  PendingMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_EQ(pool->page_map()[page], before);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kCold), 4096U);
  const PageEntry to = move.move().to;
  EXPECT_TRUE(std::move(move).Commit(0));
  EXPECT_EQ(pool->page_map()[page], to);
  EXPECT_EQ(pool->num_refs(page), 2);
  EXPECT_EQ(pool->generation(page), 1U);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kHot), 0U);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, TellsWhereInItsSequencesThePageIs) {
  const auto pool = MakeTieredPool(8);
  const PageId page = pool->Allocate(kAnyTier).value();
  pool->MarkFull(page, 192);
  PendingMove to_warm = pool->BeginMove(page, Tier::kWarm).value();
  EXPECT_EQ(to_warm.move().first_position, 192);
  EXPECT_TRUE(std::move(to_warm).Commit(0));
  EXPECT_EQ(pool->BeginMove(page, Tier::kCold).value().move().first_position, 192);
}

TEST(PageMove, DemotingMakesRoomForHotPages) {
  const auto pool = MakeTieredPool(9);
  const PageId first = Take(*pool);
  const PageId second = Take(*pool);
  EXPECT_FALSE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->BeginMove(first, Tier::kCold).value().Commit(0));
  EXPECT_TRUE(pool->BeginMove(second, Tier::kCold).value().Commit(0));
  EXPECT_TRUE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, AMoveThatIsNotCommittedLeavesThePageAsItWas) {
  const auto pool = MakeTieredPool(8);
  const PageId page = Take(*pool);
  const PageEntry before = pool->page_map()[page];
  EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm).has_value());  // and gone at once
  EXPECT_EQ(pool->page_map()[page], before);
  EXPECT_EQ(pool->generation(page), 1U);
  EXPECT_FALSE(pool->is_lossy(page));
  EXPECT_EQ(pool->arena().bytes_used(Tier::kWarm), 0U);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, PageMovesOnceAtATimeAndOnlyWhereThereIsRoom) {
  const auto pool = MakeTieredPool(5);
  const PageId page = Take(*pool);
  EXPECT_FALSE(pool->BeginMove(page, Tier::kWarm).has_value());     // one unit is left
  EXPECT_FALSE(pool->BeginMove(page, Tier::kArchive).has_value());  // no such places here
  PendingMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_FALSE(pool->BeginMove(page, Tier::kCold).has_value());
  EXPECT_TRUE(std::move(move).Commit(0));
}

TEST(PageMove, PageReleasedInFlightIsFreedWhenTheMoveEnds) {
  for (const bool commit : {true, false}) {
    const auto pool = MakeTieredPool(8);
    const PageId page = Take(*pool);
    PendingMove move = pool->BeginMove(page, Tier::kCold).value();
    pool->Release(page, kAnyTier);
    EXPECT_EQ(pool->arena().bytes_free(), 3 * 4096U);  // both places are still in use
    EXPECT_TRUE(pool->Audit().ok());
    if (commit) {
      EXPECT_TRUE(std::move(move).Commit(0));
    } else {
      const PendingMove dropped = std::move(move);
    }
    EXPECT_EQ(pool->arena().bytes_free(), 8 * 4096U);
    EXPECT_TRUE(pool->Audit().ok());
  }
}

TEST(PageMove, CachedPageMovesAndIsStillFound) {
  const auto pool = MakeTieredPool(8);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->SetHash(page, {1, 1}, std::nullopt));
  pool->Release(page, kAnyTier);
  PendingMove move = pool->BeginMove(page, Tier::kCold).value();
  pool->AddRef(page, kAnyTier);
  EXPECT_TRUE(std::move(move).Commit(0));
  EXPECT_EQ(pool->Find({1, 1}), page);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, NothingIsPromotedAndWhatFailedStays) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm).value().Commit(7));
  EXPECT_TRUE(pool->is_lossy(page));
  EXPECT_FALSE(pool->BeginMove(page, Tier::kHot).has_value());
  EXPECT_EQ(pool->BeginMove(page, Tier::kCold).value().move().checksum, 7U);
  pool->Pin(page);
  EXPECT_FALSE(pool->BeginMove(page, Tier::kCold).has_value());
}

TEST(PageMove, NothingMovesWhereAReaderRefusesIt) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  pool->AddRef(page, Tier::kWarm);
  EXPECT_EQ(pool->accepted(page), Tier::kWarm);
  EXPECT_FALSE(pool->BeginMove(page, Tier::kCold).has_value());
  pool->AddRef(page, Tier::kHot);
  EXPECT_FALSE(pool->BeginMove(page, Tier::kWarm).has_value());
  EXPECT_TRUE(pool->BeginMove(page, Tier::kHot).has_value());
}

TEST(PageMove, AReaderThatComesWhileAPageMovesKeepsItWhereItIs) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  const PageEntry before = pool->page_map()[page];
  PendingMove refused = pool->BeginMove(page, Tier::kWarm).value();
  pool->AddRef(page, Tier::kHot);
  EXPECT_FALSE(std::move(refused).Commit(7));
  EXPECT_EQ(pool->page_map()[page], before);
  EXPECT_EQ(pool->loss(page), Tier::kHot);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kWarm), 0U);
  pool->Release(page, Tier::kHot);  // and once it is gone the page moves
  EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm).value().Commit(7));
  EXPECT_EQ(pool->loss(page), Tier::kWarm);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, AReaderIsNeverGivenAPageThatItRefuses) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm).value().Commit(0));
  EXPECT_DEATH(pool->AddRef(page, Tier::kHot), "CHECK failed");
  const PageId exact = pool->Allocate(Tier::kHot).value();
  EXPECT_DEATH(pool->NoteComputed(exact, Tier::kWarm), "CHECK failed");
  pool->Release(exact, Tier::kHot);
}

TEST(PageMove, WhatIsComputedFromLossyPagesIsLossyWhereverItIs) {
  const auto pool = MakeTieredPool(16);
  const PageId page = pool->Allocate(kAnyTier).value();
  pool->NoteComputed(page, Tier::kCold);
  pool->NoteComputed(page, Tier::kHot);  // the rest of it, when what was cold had woken
  pool->MarkFull(page, 0);
  EXPECT_EQ(pool->tier(page), Tier::kHot);
  EXPECT_EQ(pool->loss(page), Tier::kCold);
  EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm).value().Commit(0));
  EXPECT_EQ(pool->loss(page), Tier::kCold);
}

TEST(PageMove, ALoadThatIsNotWhatTheStoreHadSaidIsAborted) {
  const auto pool = MakeTieredPool(16);
  const PageId page = pool->BeginLoad(Tier::kHot, Tier::kHot).value();
  EXPECT_FALSE(pool->EndLoad(page, Tier::kCold, 0));
  EXPECT_EQ(pool->num_transferring(), 0U);
  pool->Release(page, Tier::kHot);
  EXPECT_EQ(pool->arena().bytes_free(), 16 * kArenaUnitBytes);
}

TEST(PageMove, AMoveIsMadeByWhoeverHoldsItLast) {
  const auto pool = MakeTieredPool(16);
  const PageId first = Take(*pool);
  const PageId second = Take(*pool);
  std::vector<PendingMove> moves;
  for (const PageId page : {first, second}) {
    moves.push_back(pool->BeginMove(page, Tier::kCold).value());
  }
  EXPECT_EQ(pool->num_moving(), 2U);
  moves[0] = std::move(moves[1]);  // what it held is aborted
  EXPECT_EQ(pool->num_moving(), 1U);
  EXPECT_FALSE(pool->is_moving(first));
  moves.pop_back();  // holds nothing any more
  EXPECT_EQ(pool->num_moving(), 1U);
  EXPECT_TRUE(std::move(moves[0]).Commit(0));
  EXPECT_EQ(pool->num_moving(), 0U);
  moves.clear();
  EXPECT_EQ(pool->tier(first), Tier::kHot);
  EXPECT_EQ(pool->tier(second), Tier::kCold);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, AMoveIsCommittedOnce) {
  const auto pool = MakeTieredPool(16);
  PendingMove move = pool->BeginMove(Take(*pool), Tier::kCold).value();
  EXPECT_TRUE(std::move(move).Commit(0));
  // NOLINTNEXTLINE(bugprone-use-after-move): what is tested
  EXPECT_DEATH(static_cast<void>(std::move(move).Commit(0)), "CHECK failed");
}

// Two superblocks of four cold pages each, both half empty, become one, and a hot page fits again.
TEST(PageMove, CompactionEmptiesASuperblock) {
  const auto pool = MakeTieredPool(12);
  std::vector<PageId> pages;
  for (int i = 0; i < 8; ++i) {
    const PageId page = Take(*pool);
    EXPECT_TRUE(pool->BeginMove(page, Tier::kCold).value().Commit(0));
    pages.push_back(page);
  }
  for (const size_t i : {1U, 3U, 4U, 6U}) {
    pool->Release(pages[i], kAnyTier);
  }
  EXPECT_TRUE(pool->Audit().ok());
  const PageId hot = Take(*pool);
  EXPECT_FALSE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->BeginCompaction(Tier::kHot, 9).empty());
  std::vector<PendingMove> moves = pool->BeginCompaction(Tier::kCold, 9);
  ASSERT_EQ(moves.size(), 2U);
  for (PendingMove& move : moves) {
    EXPECT_TRUE(std::move(move).Commit(0));
  }
  EXPECT_TRUE(pool->Audit().ok());
  EXPECT_TRUE(pool->Allocate(kAnyTier).has_value());
  EXPECT_EQ(pool->num_refs(hot), 1);
}

}  // namespace
}  // namespace thermocline
