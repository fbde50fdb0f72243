#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <random>
#include <vector>

#include "scheduler/page_pool.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

PageId Take(PagePool& pool) {
  const PageId page = pool.Allocate().value();
  pool.MarkFull(page, false, 0);
  return page;
}

TEST(PageMove, PageKeepsItsIdAndIsReadableWhereItWasUntilTheSwitch) {
  const auto pool = MakeTieredPool(8);
  const PageId page = Take(*pool);
  pool->AddRef(page);
  const PageEntry before = pool->page_map()[page];
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_EQ(pool->page_map()[page], before);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kCold), 4096U);
  pool->CommitMove(move, 0);
  EXPECT_EQ(pool->page_map()[page], move.to);
  EXPECT_EQ(pool->num_refs(page), 2);
  EXPECT_EQ(pool->generation(page), 1U);
  EXPECT_EQ(pool->arena().bytes_used(Tier::kHot), 0U);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, TellsWhereInItsSequencesThePageIs) {
  const auto pool = MakeTieredPool(8);
  const PageId page = pool->Allocate().value();
  pool->MarkFull(page, false, 192);
  const PageMove to_warm = pool->BeginMove(page, Tier::kWarm).value();
  pool->CommitMove(to_warm, 0);
  EXPECT_EQ(to_warm.first_position, 192);
  EXPECT_EQ(pool->BeginMove(page, Tier::kCold).value().first_position, 192);
}

TEST(PageMove, DemotingMakesRoomForHotPages) {
  const auto pool = MakeTieredPool(9);
  const PageId first = Take(*pool);
  const PageId second = Take(*pool);
  EXPECT_FALSE(pool->Allocate().has_value());
  pool->CommitMove(pool->BeginMove(first, Tier::kCold).value(), 0);
  pool->CommitMove(pool->BeginMove(second, Tier::kCold).value(), 0);
  EXPECT_TRUE(pool->Allocate().has_value());
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
  pool->CommitMove(move, 0);
}

TEST(PageMove, PageReleasedInFlightIsFreedWhenTheMoveEnds) {
  for (const bool commit : {true, false}) {
    const auto pool = MakeTieredPool(8);
    const PageId page = Take(*pool);
    const PageMove move = pool->BeginMove(page, Tier::kCold).value();
    pool->Release(page);
    EXPECT_EQ(pool->arena().bytes_free(), 3 * 4096U);  // both places are still in use
    EXPECT_TRUE(pool->Audit().ok());
    commit ? pool->CommitMove(move, 0) : pool->AbortMove(move);
    EXPECT_EQ(pool->arena().bytes_free(), 8 * 4096U);
    EXPECT_TRUE(pool->Audit().ok());
  }
}

TEST(PageMove, CachedPageMovesAndIsStillFound) {
  const auto pool = MakeTieredPool(8);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->SetHash(page, {1, 1}, std::nullopt));
  pool->Release(page);
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  pool->AddRef(page);
  pool->CommitMove(move, 0);
  EXPECT_EQ(pool->Find({1, 1}), page);
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PageMove, NothingIsPromotedAndWhatFailedStays) {
  const auto pool = MakeTieredPool(16);
  const PageId page = Take(*pool);
  pool->CommitMove(pool->BeginMove(page, Tier::kWarm).value(), 7);
  EXPECT_TRUE(pool->is_lossy(page));
  EXPECT_FALSE(pool->BeginMove(page, Tier::kHot).has_value());
  const PageMove move = pool->BeginMove(page, Tier::kCold).value();
  EXPECT_EQ(move.checksum, 7U);
  pool->AbortMove(move);
  pool->Pin(page);
  EXPECT_FALSE(pool->BeginMove(page, Tier::kCold).has_value());
}

// Two superblocks of four cold pages each, both half empty, become one, and a hot page fits again.
TEST(PageMove, CompactionEmptiesASuperblock) {
  const auto pool = MakeTieredPool(12);
  std::vector<PageId> pages;
  for (int i = 0; i < 8; ++i) {
    const PageId page = Take(*pool);
    pool->CommitMove(pool->BeginMove(page, Tier::kCold).value(), 0);
    pages.push_back(page);
  }
  for (const size_t i : {1U, 3U, 4U, 6U}) {
    pool->Release(pages[i]);
  }
  EXPECT_TRUE(pool->Audit().ok());
  const PageId hot = Take(*pool);
  EXPECT_FALSE(pool->Allocate().has_value());
  EXPECT_TRUE(pool->BeginCompaction(Tier::kHot, 9).empty());
  const std::vector<PageMove> moves = pool->BeginCompaction(Tier::kCold, 9);
  ASSERT_EQ(moves.size(), 2U);
  for (const PageMove& move : moves) {
    pool->CommitMove(move, 0);
  }
  EXPECT_TRUE(pool->Audit().ok());
  EXPECT_TRUE(pool->Allocate().has_value());
  EXPECT_EQ(pool->num_refs(hot), 1);
}

// A pool whose pages hold bytes: a stamp of their own in every unit of their place.
class StampedPool {
 public:
  StampedPool(int num_units, uint32_t seed)
      : pool_(MakeTieredPool(num_units)),
        units_(static_cast<size_t>(num_units), 0),
        random_(seed) {}

  void RunRandomOperation() {
    switch (random_() % 9) {
      case 0:
      case 1:
        Allocate();
        break;
      case 2:
        Release();
        break;
      case 3:
        Share();
        break;
      case 4:
        Hash();
        break;
      case 5:
        FindAgain();
        break;
      case 6:
        Begin();
        break;
      case 7:
        Compact();
        break;
      default:
        End();
        break;
    }
  }

  // Every page that can be read holds its own bytes, wherever it is now.
  void ExpectContent() const {
    for (const auto& [page, refs] : refs_) {
      ASSERT_EQ(pool_->num_refs(page), refs);
      ExpectStamp(page);
    }
    for (const auto& [hash, stamp] : stamp_of_hash_) {
      if (const auto page = pool_->Find({hash, hash})) {
        ASSERT_EQ(stamps_.at(*page), stamp);
        ExpectStamp(*page);
      }
    }
    const Status audit = pool_->Audit();
    ASSERT_TRUE(audit.ok()) << audit.message();
  }

  void ReleaseAll() {
    while (!moves_.empty()) {
      End();
    }
    while (!refs_.empty()) {
      Release();
    }
    uint64_t cached = 0;
    for (int tier = 0; tier < kNumTiers; ++tier) {
      cached += pool_->arena().bytes_used(static_cast<Tier>(tier));
    }
    ASSERT_EQ(cached + pool_->arena().bytes_free(), units_.size() * kArenaUnitBytes);
    ASSERT_EQ(pool_->num_moving(), 0U);
  }

  uint64_t num_commits() const { return num_commits_; }

 private:
  PageId AnyPage() {
    auto it = refs_.begin();
    std::advance(it, random_() % refs_.size());
    return it->first;
  }

  void Stamp(PageEntry place, uint64_t stamp) {
    for (uint32_t i = 0; i < pool_->arena().units_per_page(place.tier()); ++i) {
      units_[place.unit() + i] = stamp;
    }
  }

  void ExpectStamp(PageId page) const {
    const PageEntry place = pool_->page_map()[page];
    for (uint32_t i = 0; i < pool_->arena().units_per_page(place.tier()); ++i) {
      ASSERT_EQ(units_[place.unit() + i], stamps_.at(page)) << "page " << page;
    }
  }

  void Allocate() {
    if (const auto page = pool_->Allocate()) {
      ASSERT_FALSE(refs_.contains(*page));
      pool_->MarkFull(*page, false, 0);
      refs_[*page] = 1;
      stamps_[*page] = ++num_stamps_;
      Stamp(pool_->page_map()[*page], num_stamps_);
    }
  }

  void Release() {
    if (refs_.empty()) {
      return;
    }
    // One reference, or as often all: else nothing would ever be free again.
    const PageId page = AnyPage();
    for (int left = random_() % 2 == 0 ? 1 : refs_[page]; left > 0; --left) {
      pool_->Release(page);
      --refs_[page];
    }
    if (refs_[page] == 0) {
      refs_.erase(page);
    }
  }

  void Share() {
    if (!refs_.empty()) {
      const PageId page = AnyPage();
      pool_->AddRef(page);
      ++refs_[page];
    }
  }

  void Hash() {
    if (refs_.empty()) {
      return;
    }
    const PageId page = AnyPage();
    const uint64_t hash = random_() % 30 + 1;
    if (!pool_->is_hashed(page) && pool_->SetHash(page, {hash, hash}, std::nullopt)) {
      stamp_of_hash_[hash] = stamps_[page];
    }
  }

  void FindAgain() {
    const uint64_t hash = random_() % 30 + 1;
    if (const auto page = pool_->Find({hash, hash})) {
      pool_->AddRef(*page);
      ++refs_[*page];
    }
  }

  void Begin() {
    if (refs_.empty()) {
      return;
    }
    if (const auto move = pool_->BeginMove(AnyPage(), static_cast<Tier>(random_() % 3))) {
      moves_.push_back(*move);
    }
  }

  void Compact() {
    const auto tier = static_cast<Tier>(random_() % 3);
    for (const PageMove& move : pool_->BeginCompaction(tier, random_() % 3 + 1)) {
      ASSERT_EQ(move.from.tier(), move.to.tier());
      moves_.push_back(move);
    }
  }

  // The copy is made at the end, when the source has seen all that can happen to it meanwhile. One
  // move in four fails half-way.
  void End() {
    if (moves_.empty()) {
      return;
    }
    const size_t index = random_() % moves_.size();
    const PageMove move = moves_[index];
    moves_.erase(moves_.begin() + static_cast<std::ptrdiff_t>(index));
    if (random_() % 4 == 0) {
      units_[move.to.unit()] = 0;
      pool_->AbortMove(move);
      return;
    }
    Stamp(move.to, units_[move.from.unit()]);
    pool_->CommitMove(move, 0);
    ++num_commits_;
  }

  std::unique_ptr<PagePool> pool_;
  std::vector<uint64_t> units_;  // the arena's bytes: a stamp per unit
  std::mt19937 random_;
  std::map<PageId, int> refs_;
  std::map<PageId, uint64_t> stamps_;
  std::map<uint64_t, uint64_t> stamp_of_hash_;
  std::vector<PageMove> moves_;
  uint64_t num_stamps_ = 0;
  uint64_t num_commits_ = 0;
};

TEST(PageMove, AMillionRandomOperationsKeepEveryByte) {
  uint64_t num_commits = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    StampedPool stamped(41, seed);
    for (int i = 0; i < 50000; ++i) {
      stamped.RunRandomOperation();
      if (i % 20 == 0) {
        stamped.ExpectContent();
      }
      if (testing::Test::HasFatalFailure()) {
        FAIL() << "seed " << seed << " operation " << i;
      }
    }
    stamped.ReleaseAll();
    num_commits += stamped.num_commits();
  }
  EXPECT_GT(num_commits, 10000U);
}

}  // namespace
}  // namespace thermocline
