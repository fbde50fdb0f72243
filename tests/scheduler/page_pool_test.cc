#include "scheduler/page_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

PageId Take(PagePool& pool) { return pool.Allocate(kAnyTier).value(); }

TEST(PagePool, HandsOutEachPageOnceThenNothing) {
  const auto pool = MakePool(3);
  std::set<PageId> pages;
  for (int i = 0; i < 3; ++i) {
    pages.insert(Take(*pool));
  }
  EXPECT_EQ(pages.size(), 3U);
  EXPECT_FALSE(pool->Allocate(kAnyTier).has_value());
  EXPECT_TRUE(pool->Audit().ok());
}

TEST(PagePool, PageIsFreeAfterItsLastReferenceOnly) {
  const auto pool = MakePool(1);
  const PageId page = Take(*pool);
  pool->AddRef(page, kAnyTier);
  pool->Release(page, kAnyTier);
  EXPECT_EQ(pool->num_free(), 0U);
  pool->Release(page, kAnyTier);
  EXPECT_EQ(pool->num_free(), 1U);
  EXPECT_EQ(pool->page_map()[page].tier(), Tier::kBacked);  // it has no place any more
}

TEST(PagePool, HashedPageStaysFindableUntilItsRoomIsNeeded) {
  const auto pool = MakePool(2);
  const PageId page = Take(*pool);
  EXPECT_TRUE(pool->SetHash(page, {1, 1}, std::nullopt));
  pool->Release(page, kAnyTier);
  EXPECT_EQ(pool->Find({1, 1}), page);
  EXPECT_EQ(pool->num_evictable(), 1U);
  Take(*pool);
  EXPECT_EQ(pool->Find({1, 1}), page);  // a page that was never used went first
  Take(*pool);
  EXPECT_EQ(pool->Find({1, 1}), std::nullopt);
  EXPECT_EQ(pool->num_evictions(), 1U);
}

TEST(PagePool, FirstOfTwoPagesWithOneHashStays) {
  const auto pool = MakePool(2);
  const PageId first = Take(*pool);
  const PageId second = Take(*pool);
  EXPECT_TRUE(pool->SetHash(first, {1, 1}, std::nullopt));
  EXPECT_FALSE(pool->SetHash(second, {1, 1}, std::nullopt));
  EXPECT_EQ(pool->Find({1, 1}), first);
  EXPECT_FALSE(pool->is_hashed(second));
}

TEST(PagePool, LeastRecentlyUsedIsEvictedFirst) {
  const auto pool = MakePool(2);
  const PageId old_page = Take(*pool);
  const PageId new_page = Take(*pool);
  pool->SetHash(old_page, {1, 1}, std::nullopt);
  pool->SetHash(new_page, {2, 2}, std::nullopt);
  pool->Release(new_page, kAnyTier);
  pool->Release(old_page, kAnyTier);
  pool->AddRef(new_page, kAnyTier);  // found again: now the most recent
  pool->Release(new_page, kAnyTier);
  Take(*pool);
  EXPECT_EQ(pool->Find({1, 1}), std::nullopt);
  EXPECT_EQ(pool->Find({2, 2}), new_page);
}

// A superblock of the reserve that is lent to warm has to be had again from the places that its
// pages leave, before new pages take them.
TEST(PagePool, PlacesAreHeldBackWhileTheReserveIsLent) {
  const auto pool = MakeRealPool(100);
  pool->set_reserved_superblocks(1);
  std::vector<PageId> pages;
  while (pool->num_free() > 0) {
    pages.push_back(Take(*pool));
    pool->MarkFull(pages.back(), 0);
  }
  ASSERT_EQ(pool->arena().num_empty_superblocks(), 1U);
  const uint64_t per_superblock = pool->arena().units_per_superblock() / 360;
  ASSERT_GT(per_superblock, 1U);
  for (uint64_t i = 0; i < per_superblock; ++i) {
    // One of each superblock, as far as there are so many.
    const PageId page = pages[i * per_superblock % pages.size()];
    EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm).value().Commit(0));
    EXPECT_EQ(pool->num_free(), 0U);
    EXPECT_FALSE(pool->Allocate(kAnyTier).has_value());
  }
  for (PendingMove& move : pool->BeginCompaction(Tier::kHot, 64)) {
    EXPECT_TRUE(std::move(move).Commit(0));
  }
  EXPECT_EQ(pool->arena().num_empty_superblocks(), 1U);
  EXPECT_EQ(pool->num_free(), 0U);  // nothing but the reserve
  EXPECT_TRUE(pool->BeginMove(pages.back(), Tier::kWarm).value().Commit(0));
  EXPECT_EQ(pool->num_free(), 1U);
}

// Places in cold are as good as the reserve: each page that goes there leaves one.
TEST(PagePool, NoPlaceIsHeldBackWhilePagesCanGoCold) {
  const auto pool = MakeRealPool(100);
  pool->set_reserved_superblocks(1);
  PageId page = 0;
  while (pool->num_free() > 0) {
    page = Take(*pool);
    pool->MarkFull(page, 0);
  }
  EXPECT_TRUE(pool->BeginMove(page, Tier::kCold).value().Commit(0));
  EXPECT_EQ(pool->arena().num_empty_superblocks(), 0U);
  EXPECT_EQ(pool->num_free(), 1U);
}

TEST(PagePool, AMoveLeavesSuperblocksEmptyThatItIsToldTo) {
  const auto pool = MakeTieredPool(256);
  const PageId page = Take(*pool);
  pool->MarkFull(page, 0);
  const uint64_t num_empty = pool->arena().num_empty_superblocks();
  EXPECT_FALSE(pool->BeginMove(page, Tier::kWarm, num_empty).has_value());
  EXPECT_TRUE(pool->BeginMove(page, Tier::kWarm, num_empty - 1).has_value());
}

TEST(PagePool, EvictionTakesWhatHangsBelow) {
  const auto pool = MakePool(3);
  const PageId parent = Take(*pool);
  const PageId child = Take(*pool);
  pool->SetHash(parent, {1, 1}, std::nullopt);
  pool->SetHash(child, {2, 2}, parent);
  pool->Release(parent, kAnyTier);  // parent first, so that it is the older
  pool->Release(child, kAnyTier);
  Take(*pool);
  Take(*pool);  // evicts the parent, and the child could never be found again
  EXPECT_EQ(pool->Find({1, 1}), std::nullopt);
  EXPECT_EQ(pool->Find({2, 2}), std::nullopt);
  EXPECT_EQ(pool->num_free(), 1U);
  EXPECT_TRUE(pool->Audit().ok());
}

// A model of the pool that a reader can check by eye: sets and maps.
struct Model {
  std::map<PageId, int> refs;          // referenced pages
  std::map<uint64_t, PageId> by_hash;  // referenced or cached
};

TEST(PagePool, LongRandomHistoriesKeepEveryInvariant) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto pool = MakePool(17);
    Model model;
    const auto any_page = [&] {
      auto it = model.refs.begin();
      std::advance(it, random() % model.refs.size());
      return it->first;
    };
    for (int step = 0; step < 1500; ++step) {
      switch (random() % 6) {
        case 0:
        case 1:
          if (const auto page = pool->Allocate(kAnyTier)) {
            ASSERT_FALSE(model.refs.contains(*page));
            model.refs[*page] = 1;
          } else {
            ASSERT_EQ(model.refs.size(), 17U);
          }
          break;
        case 2:
          if (!model.refs.empty()) {
            const PageId page = any_page();
            pool->Release(page, kAnyTier);
            if (--model.refs[page] == 0) {
              model.refs.erase(page);
            }
          }
          break;
        case 3:
          if (!model.refs.empty()) {
            const PageId page = any_page();
            const uint64_t hash = random() % 40 + 1;
            std::optional<PageId> parent;
            const PageId other = any_page();
            if (random() % 2 == 0 && other != page && pool->is_hashed(other)) {
              parent = other;
            }
            if (!pool->is_hashed(page)) {
              const bool known = pool->Find({hash, hash}).has_value();
              ASSERT_EQ(pool->SetHash(page, {hash, hash}, parent), !known);
              if (!known) {
                model.by_hash[hash] = page;
              }
            }
          }
          break;
        default:
          if (!model.by_hash.empty()) {
            auto it = model.by_hash.begin();
            std::advance(it, random() % model.by_hash.size());
            const auto found = pool->Find({it->first, it->first});
            if (found) {
              ASSERT_EQ(*found, it->second);
              pool->AddRef(*found, kAnyTier);
              ++model.refs[*found];
            } else {
              ASSERT_GT(pool->num_evictions(), 0U);
              model.by_hash.erase(it);
            }
          }
      }
      const Status audit = pool->Audit();
      ASSERT_TRUE(audit.ok()) << audit.message();
      for (const auto& [page, refs] : model.refs) {
        ASSERT_EQ(pool->num_refs(page), refs);
      }
      ASSERT_EQ(model.refs.size() + pool->num_free() + pool->num_evictable(), 17U);
    }
  }
}

}  // namespace
}  // namespace thermocline
