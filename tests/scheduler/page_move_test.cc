#include <gtest/gtest.h>

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
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_EQ(pool->page_map()[page], before);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kCold), 4096U);
  EXPECT_TRUE(pool->CommitMove(move, 0));
  EXPECT_EQ(pool->page_map()[page], move.to);
  EXPECT_EQ(pool->num_refs(page), 2);
  EXPECT_EQ(pool->generation(page), 1U);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kHot), 0U);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, TellsWhereInItsSequencesThePageIs) {
  const auto pool = MakeTieredPool(8);
  const PageId page = pool->Allocate(kAnyTier).value();
  pool->MarkFull(page, 192);
  const PageMove to_warm = pool->BeginMove(page, Tier::kWarm).value();
  EXPECT_TRUE(pool->CommitMove(to_warm, 0));
  EXPECT_EQ(to_warm.first_position, 192);
  EXPECT_EQ(pool->BeginMove(page, Tier::kCold).value().first_position, 192);
}

TEST(PageMove, DemotingMakesRoomForHotPages) {
  const auto pool = MakeTieredPool(9);
  const PageId first = Take(*pool);
  const PageId second = Take(*pool);
  EXPECT_FALSE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->CommitMove(pool->BeginMove(first, Tier::kCold).value(), 0));
  EXPECT_TRUE(pool->CommitMove(pool->BeginMove(second, Tier::kCold).value(), 0));
  EXPECT_TRUE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, AbortedMoveLeavesThePageAsItWas) {
  const auto pool = MakeTieredPool(8);
  const PageId page = Take(*pool);
  const PageEntry before = pool->page_map()[page];
  pool->AbortMove(pool->BeginMove(page, Tier::kWarm).value());
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
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_FALSE(pool->BeginMove(page, Tier::kCold).has_value());
  EXPECT_TRUE(pool->CommitMove(move, 0));
}

TEST(PageMove, PageReleasedInFlightIsFreedWhenTheMoveEnds) {
  for (const bool commit : {true, false}) {
    const auto pool = MakeTieredPool(8);
    const PageId page = Take(*pool);
    const PageMove move = pool->BeginMove(page, Tier::kCold).value();
    pool->Release(page, kAnyTier);
    EXPECT_EQ(pool->arena().bytes_free(), 3 * 4096U);  // both places are still in use
    EXPECT_TRUE(pool->Audit().ok());
    if (commit) {
      EXPECT_TRUE(pool->CommitMove(move, 0));
    } else {
      pool->AbortMove(move);
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
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  pool->AddRef(page, kAnyTier);
  EXPECT_TRUE(pool->CommitMove(move, 0));
  EXPECT_EQ(pool->Find({1, 1}), page);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, NothingIsPromotedAndWhatFailedStays) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->CommitMove(pool->BeginMove(page, Tier::kWarm).value(), 7));
  EXPECT_TRUE(pool->is_lossy(page));
  EXPECT_FALSE(pool->BeginMove(page, Tier::kHot).has_value());
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_EQ(move.checksum, 7U);
  pool->AbortMove(move);
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
  const PageMove refused = pool->BeginMove(page, Tier::kWarm).value();
  pool->AddRef(page, Tier::kHot);
  EXPECT_FALSE(pool->CommitMove(refused, 7));
  EXPECT_EQ(pool->page_map()[page], before);
  EXPECT_EQ(pool->loss(page), Tier::kHot);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kWarm), 0U);
  pool->Release(page, Tier::kHot);  // and once it is gone the page moves
  EXPECT_TRUE(pool->CommitMove(pool->BeginMove(page, Tier::kWarm).value(), 7));
  EXPECT_EQ(pool->loss(page), Tier::kWarm);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, AReaderIsNeverGivenAPageThatItRefuses) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->CommitMove(pool->BeginMove(page, Tier::kWarm).value(), 0));
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
  EXPECT_TRUE(pool->CommitMove(pool->BeginMove(page, Tier::kWarm).value(), 0));
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

// Two superblocks of four cold pages each, both half empty, become one, and a hot page fits again.
TEST(PageMove, CompactionEmptiesASuperblock) {
  const auto pool = MakeTieredPool(12);
  std::vector<PageId> pages;
  for (int i = 0; i < 8; ++i) {
    const PageId page = Take(*pool);
    EXPECT_TRUE(pool->CommitMove(pool->BeginMove(page, Tier::kCold).value(), 0));
    pages.push_back(page);
  }
  for (const size_t i : {1U, 3U, 4U, 6U}) {
    pool->Release(pages[i], kAnyTier);
  }
  EXPECT_TRUE(pool->Audit().ok());
  const PageId hot = Take(*pool);
  EXPECT_FALSE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->BeginCompaction(Tier::kHot, 9).empty());
  const std::vector<PageMove> moves = pool->BeginCompaction(Tier::kCold, 9);
  ASSERT_EQ(moves.size(), 2U);
  for (const PageMove& move : moves) {
    EXPECT_TRUE(pool->CommitMove(move, 0));
  }
  EXPECT_TRUE(pool->Audit().ok());
  EXPECT_TRUE(pool->Allocate(kAnyTier).has_value());
  EXPECT_EQ(pool->num_refs(hot), 1);
}

}  // namespace
}  // namespace thermocline
