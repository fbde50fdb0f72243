#include "scheduler/prefix_cache.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

// Puts `tokens` (whole pages of 4) into the cache and lets the pages go.
std::vector<PageId> Fill(PagePool& pool, PrefixCache& cache, std::string_view tenant,
                         const std::vector<TokenId>& tokens) {
  std::vector<PageId> pages;
  ContentHash chain = cache.Root(tenant);
  for (size_t i = 0; i < tokens.size(); i += 4) {
    pages.push_back(pool.Allocate(kAnyTier).value());
    const auto page_tokens = std::span(tokens).subspan(i, 4);
    const ContentHash previous = chain;
    chain = cache.Next(previous, page_tokens);
    cache.Insert(pages.back(), tenant, page_tokens, previous, i == 0, chain);
  }
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    pool.Release(*page, kAnyTier);
  }
  return pages;
}

std::vector<PageId> MatchAll(PrefixCache& cache, std::string_view tenant,
                             const std::vector<TokenId>& tokens) {
  ContentHash chain;
  return cache.Match(tenant, tokens, tokens.size() / 4, kAnyTier, chain);
}

TEST(PrefixCache, FindsTheLongestRunOfKnownPages) {
  const auto pool = MakePool(8);
  PrefixCache cache(*pool, 7);
  const auto pages = Fill(*pool, cache, "a", {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ(MatchAll(cache, "a", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), pages);
  EXPECT_EQ(MatchAll(cache, "a", {1, 2, 3, 4, 5, 6, 7, 9}), std::vector{pages[0]});
  EXPECT_EQ(pool->num_refs(pages[0]), 2);  // one for each match
}

TEST(PrefixCache, SamePageAfterAnotherPrefixIsNotFound) {
  const auto pool = MakePool(8);
  PrefixCache cache(*pool, 7);
  Fill(*pool, cache, "a", {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_TRUE(MatchAll(cache, "a", {9, 9, 9, 9, 5, 6, 7, 8}).empty());
  EXPECT_TRUE(MatchAll(cache, "a", {5, 6, 7, 8}).empty());
}

TEST(PrefixCache, TenantsNeverMeet) {
  const auto pool = MakePool(8);
  PrefixCache cache(*pool, 7);
  Fill(*pool, cache, "a", {1, 2, 3, 4});
  EXPECT_TRUE(MatchAll(cache, "b", {1, 2, 3, 4}).empty());
}

// With a hash that collides always, only the comparison of contents is left.
TEST(PrefixCache, CollidingHashesNeverGiveAnothersPage) {
  const auto pool = MakePool(8);
  PrefixCache cache(*pool, 7, [](std::span<const std::byte>, uint64_t) {
    return ContentHash{1, 1};
  });
  Fill(*pool, cache, "a", {1, 2, 3, 4});
  EXPECT_TRUE(MatchAll(cache, "b", {1, 2, 3, 4}).empty());
  EXPECT_TRUE(MatchAll(cache, "a", {1, 2, 3, 5}).empty());
  EXPECT_EQ(MatchAll(cache, "a", {1, 2, 3, 4}).size(), 1U);
}

TEST(PrefixCache, KeyChangesEveryHash) {
  const auto pool = MakePool(1);
  const std::vector<TokenId> tokens = {1, 2, 3, 4};
  PrefixCache one(*pool, 7);
  PrefixCache two(*pool, 8);
  EXPECT_NE(one.Next(one.Root("a"), tokens), two.Next(two.Root("a"), tokens));
}

}  // namespace
}  // namespace thermocline
