#include "engine/baselines/eviction_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace thermocline {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int32_t> Positions(int begin, int end) {
  std::vector<int32_t> positions(static_cast<size_t>(end - begin));
  std::iota(positions.begin(), positions.end(), begin);
  return positions;
}

std::vector<int32_t> Kept(Baseline baseline, const HeldTokens& held) {
  std::vector<int32_t> kept(held.positions.begin(), held.positions.end());
  for (const int32_t position : TokensToEvict(baseline, held)) {
    const auto at = std::find(kept.begin(), kept.end(), position);
    EXPECT_NE(at, kept.end()) << position << " was evicted twice, or was not there";
    kept.erase(at);
  }
  return kept;
}

TEST(EvictionRules, BudgetIsThePartOfTheTokensRoundedDownAndAtLeastOne) {
  EXPECT_EQ(NumKeptTokens(0.25, 1000), 250);
  EXPECT_EQ(NumKeptTokens(0.25, 1003), 250);
  EXPECT_EQ(NumKeptTokens(0.25, 3), 1);
  EXPECT_EQ(NumKeptTokens(1.0, 7001), 7001);
}

TEST(EvictionRules, NothingGoesWithinTheBudget) {
  const std::vector<int32_t> positions = Positions(0, 8);
  const std::vector<float> mass(8, 1.0F);
  for (const Baseline baseline : {Baseline::kStreaming, Baseline::kH2o, Baseline::kSnapKv}) {
    EXPECT_THAT(TokensToEvict(baseline, {positions, mass, 8, 8}), IsEmpty());
    EXPECT_THAT(TokensToEvict(baseline, {positions, mass, 20, 9}), IsEmpty());
  }
}

TEST(EvictionRules, StreamingKeepsFourSinksAndTheMostRecent) {
  const std::vector<int32_t> positions = Positions(0, 12);
  EXPECT_THAT(Kept(Baseline::kStreaming, {positions, {}, 12, 7}),
              ElementsAre(0, 1, 2, 3, 9, 10, 11));
  EXPECT_THAT(Kept(Baseline::kStreaming, {positions, {}, 12, 3}), ElementsAre(0, 1, 11));
  EXPECT_THAT(Kept(Baseline::kStreaming, {positions, {}, 12, 1}), ElementsAre(11));
  const std::vector<int32_t> left = {0, 1, 2, 3, 9, 10, 11, 12};  // after one token more
  EXPECT_THAT(Kept(Baseline::kStreaming, {left, {}, 13, 7}), ElementsAre(0, 1, 2, 3, 10, 11, 12));
}

TEST(EvictionRules, H2oKeepsTheRecentHalfAndTheHeaviestOfTheRest) {
  const std::vector<int32_t> positions = Positions(0, 8);
  const std::vector<float> mass = {0.5F, 3, 1, 2, 0.1F, 0.2F, 0.3F, 0};
  EXPECT_THAT(Kept(Baseline::kH2o, {positions, mass, 8, 4}), ElementsAre(1, 3, 6, 7));
  EXPECT_THAT(Kept(Baseline::kH2o, {positions, mass, 8, 5}), ElementsAre(1, 3, 5, 6, 7));
  EXPECT_THAT(Kept(Baseline::kH2o, {positions, mass, 8, 1}), ElementsAre(7));
}

TEST(EvictionRules, H2oFillsTheBudgetWhereRecentTokensHaveGone) {
  const std::vector<int32_t> positions = {0, 1, 2, 3, 19};
  const std::vector<float> mass = {1, 4, 3, 2, 0};
  EXPECT_THAT(Kept(Baseline::kH2o, {positions, mass, 20, 4}), ElementsAre(1, 2, 3, 19));
}

TEST(EvictionRules, SnapKvKeepsTheWindowAndTheNeighboursOfWhatItAttendsTo) {
  const std::vector<int32_t> positions = Positions(0, 100 + kSnapKvWindow);
  std::vector<float> mass(positions.size(), 0.01F);
  mass[40] = 5;
  mass[41] = 4;  // with 40 in reach of more tokens than one, but no more of each
  mass[80] = 2;
  std::fill(mass.begin() + 100, mass.end(), 9.0F);  // the window's own does not count
  std::vector<int32_t> want = Positions(37, 45);
  const std::vector<int32_t> second = Positions(77, 84);
  const std::vector<int32_t> window = Positions(100, 100 + kSnapKvWindow);
  want.insert(want.end(), second.begin(), second.end());
  want.insert(want.end(), window.begin(), window.end());
  EXPECT_EQ(Kept(Baseline::kSnapKv, {positions, mass, 100 + kSnapKvWindow, 8 + 7 + kSnapKvWindow}),
            want);
}

TEST(EvictionRules, SnapKvKeepsTheEndOfAWindowThatIsOverTheBudget) {
  const std::vector<int32_t> positions = Positions(0, 100);
  const std::vector<float> mass(100, 1.0F);
  EXPECT_EQ(Kept(Baseline::kSnapKv, {positions, mass, 100, 9}), Positions(91, 100));
}

}  // namespace
}  // namespace thermocline
