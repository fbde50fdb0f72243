#include "kernels/sampling/score_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

constexpr size_t kSizes[] = {1, 15, 16, 1024, 1025, 5000};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(ScoreScan, FindsTheLowestIndexOfTheBest) {
  for (const size_t size : kSizes) {
    std::vector<float> scores = RandomFloats(size, 1);
    scores[size / 2] = scores[size - 1] = 9.0F;
    const BestScore best = FindBest(scores);
    EXPECT_TRUE(best.finite);
    EXPECT_EQ(best.score, 9.0F);
    EXPECT_EQ(best.index, size / 2);
  }
}

TEST(ScoreScan, TheZerosAreEqual) {
  for (const size_t positive : {1, 40, 1100}) {
    std::vector<float> scores(1200, -1.0F);
    scores[0] = -0.0F;
    scores[positive] = 0.0F;
    EXPECT_EQ(FindBest(scores).index, 0);
  }
}

TEST(ScoreScan, SeesWhatIsNoNumber) {
  for (const float bad : {NAN, kInfinity}) {
    for (const size_t at : {0, 17, 1030}) {
      std::vector<float> scores(1031, 1.0F);
      scores[at] = bad;
      EXPECT_FALSE(FindBest(scores).finite);
    }
  }
  EXPECT_FALSE(FindBest(std::vector<float>(40, -kInfinity)).finite);
}

TEST(ScoreScan, ExponentialsAreWithinTwoUnits) {
  std::vector<float> scores;
  for (float x = 0; x > -85; x -= 0.00371F) {
    scores.push_back(x);
  }
  std::vector<float> weights(scores.size());
  ExpOfScores(scores, 0, 1, weights);
  for (size_t i = 0; i < scores.size(); ++i) {
    const double exact = std::exp(static_cast<double>(scores[i]));
    ASSERT_NEAR(weights[i], exact, 2.4e-7 * exact) << scores[i];
  }
  EXPECT_EQ(weights[0], 1.0F);
  scores = {3.0F, -kInfinity, -500.0F, 1.0F};
  weights.resize(4);
  ExpOfScores(scores, 3, 0.5F, weights);
  EXPECT_EQ(weights[0], 1.0F);
  EXPECT_EQ(weights[1], 0.0F);
  EXPECT_EQ(weights[2], 0.0F);
  EXPECT_NEAR(weights[3], std::exp(-4.0), 1e-8);
}

TEST(ScoreScan, SumOfExponentialsIsThatOfAllScores) {
  for (const size_t size : kSizes) {
    const std::vector<float> scores = RandomFloats(size, 1);
    const float max = FindBest(scores).score;
    double exact = 0;
    for (const float score : scores) {
      exact += std::exp(static_cast<double>(score) - static_cast<double>(max));
    }
    EXPECT_NEAR(SumOfExps(scores, max), exact, 3e-7 * exact) << size;
  }
}

TEST(ScoreScan, IndexAtPartIsWhereTheRunningSumPasses) {
  for (const size_t size : kSizes) {
    std::vector<float> weights(size, 1.0F);  // sums are exact
    EXPECT_EQ(SumOfWeights(weights), static_cast<double>(size));
    for (const double part : {0.0, 0.25, 0.5, 0.999}) {
      EXPECT_EQ(IndexAtPart(weights, part), static_cast<size_t>(part * static_cast<double>(size)));
    }
    weights.assign(size, 0.0F);
    weights[size / 3] = 2.0F;
    EXPECT_EQ(IndexAtPart(weights, 0.7), size / 3);
    EXPECT_EQ(IndexAtPart(weights, 1.0), size / 3);  // past all: rounding can do that
  }
}

}  // namespace
}  // namespace thermocline
