#include "engine/sampling/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "engine/sampling/logprobs.h"

namespace thermocline {
namespace {

Sequence MakeSequence(SamplingParams sampling, StopParams stop = {},
                      std::vector<TokenId> prompt = {0}, const std::vector<TokenId>& output = {}) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling = std::move(sampling);
  request.stop = std::move(stop);
  Sequence sequence;
  sequence.tokens = request.prompt;
  sequence.tokens.insert(sequence.tokens.end(), output.begin(), output.end());
  sequence.request = std::make_shared<const Request>(std::move(request));
  return sequence;
}

TokenId Sample(const std::vector<float>& logits, const Sequence& sequence,
               std::vector<TokenId> end_tokens = {}) {
  Sampler sampler(static_cast<int>(logits.size()), std::move(end_tokens));
  return sampler.Sample(logits, sequence).value();
}

// How often each token is drawn, over seeds.
std::map<TokenId, double> Frequencies(const std::vector<float>& logits, SamplingParams sampling,
                                      int num_draws = 20000) {
  Sampler sampler(static_cast<int>(logits.size()), {});
  std::map<TokenId, double> frequencies;
  for (int i = 0; i < num_draws; ++i) {
    sampling.seed = static_cast<uint64_t>(i);
    frequencies[sampler.Sample(logits, MakeSequence(sampling)).value()] += 1.0 / num_draws;
  }
  return frequencies;
}

const std::vector<float> kLogits = {std::log(0.5F), std::log(0.3F), std::log(0.15F),
                                    std::log(0.05F)};

TEST(Sampler, GreedyTakesTheBestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(Sample({1, 5, 3}, MakeSequence({.temperature = 0})), 1);
  EXPECT_EQ(Sample({1, 5, 5}, MakeSequence({.temperature = 0})), 1);
}

TEST(Sampler, DrawsInProportionToProbability) {
  auto frequencies = Frequencies(kLogits, {});
  EXPECT_NEAR(frequencies[0], 0.5, 0.015);  // four standard deviations
  EXPECT_NEAR(frequencies[1], 0.3, 0.013);
  EXPECT_NEAR(frequencies[2], 0.15, 0.011);
  EXPECT_NEAR(frequencies[3], 0.05, 0.007);
}

TEST(Sampler, TemperatureSharpens) {
  auto frequencies = Frequencies(kLogits, {.temperature = 0.5F});  // squares of the above
  EXPECT_NEAR(frequencies[0], 0.25 / 0.365, 0.014);
  EXPECT_NEAR(frequencies[3], 0.0025 / 0.365, 0.003);
}

TEST(Sampler, TopKKeepsTheBest) {
  auto frequencies = Frequencies(kLogits, {.top_k = 2});
  EXPECT_EQ(frequencies.size(), 2U);
  EXPECT_NEAR(frequencies[0], 0.625, 0.014);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  EXPECT_EQ(Frequencies(kLogits, {.top_p = 0.49F}, 500).size(), 1U);
  EXPECT_EQ(Frequencies(kLogits, {.top_p = 0.6F}, 500).size(), 2U);
  EXPECT_EQ(Frequencies(kLogits, {.top_p = 0.81F}, 500).size(), 3U);
}

TEST(Sampler, TopPOfNothingIsGreedy) {
  const std::vector<float> close = {1, std::nextafter(1.0F, 2.0F), 1};
  for (const uint64_t seed : {1, 2, 3, 4, 5}) {
    EXPECT_EQ(Sample(close, MakeSequence({.temperature = 100, .top_p = 0, .seed = seed})), 1);
  }
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  EXPECT_EQ(Frequencies(kLogits, {.min_p = 0.4F}, 500).size(), 2U);  // 0.2 and more
}

TEST(Sampler, SameSeedSameTokenAndAnotherSeedOthers) {
  const std::vector<float> flat(1000, 0.0F);
  const TokenId token = Sample(flat, MakeSequence({.seed = 1}));
  EXPECT_EQ(Sample(flat, MakeSequence({.seed = 1})), token);
  int num_equal = 0;
  for (uint64_t seed = 2; seed < 52; ++seed) {
    num_equal += Sample(flat, MakeSequence({.seed = seed})) == token ? 1 : 0;
  }
  EXPECT_LE(num_equal, 3);
}

TEST(Sampler, PositionAndChoiceDrawAnew) {
  const std::vector<float> flat(100000, 0.0F);
  const TokenId first = Sample(flat, MakeSequence({.seed = 1}));
  EXPECT_NE(Sample(flat, MakeSequence({.seed = 1}, {}, {0}, {first})), first);
  Sequence other = MakeSequence({.seed = 1});
  other.choice = 1;
  EXPECT_NE(Sample(flat, other), first);
}

TEST(Sampler, RepetitionPenaltyCoversPromptAndOutput) {
  const SamplingParams sampling{.temperature = 0, .repetition_penalty = 2.0F};
  // 4/2 < 3: the repeated token loses; a negative logit is multiplied instead.
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence(sampling, {}, {1})), 2);
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence(sampling, {}, {0}, {1})), 2);
  EXPECT_EQ(Sample({-9, -2, -3}, MakeSequence(sampling, {}, {1})), 2);
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCoverOutputAlone) {
  const SamplingParams presence{.temperature = 0, .presence_penalty = 1.5F};
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence(presence, {}, {1})), 1);
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence(presence, {}, {0}, {1})), 2);
  const SamplingParams frequency{.temperature = 0, .frequency_penalty = 0.6F};
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence(frequency, {}, {0}, {1})), 1);
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence(frequency, {}, {0}, {1, 1})), 2);
}

TEST(Sampler, LogitBiasIsAdded) {
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence({.temperature = 0, .logit_bias = {{2, 1.5F}}})), 2);
  EXPECT_EQ(Sample({0, 4, 3}, MakeSequence({.temperature = 0, .logit_bias = {{1, -100.0F}}})), 2);
}

TEST(Sampler, EndTokensAreBannedBeforeMinTokens) {
  const StopParams stop{.min_tokens = 2, .stop_token_ids = {2}};
  const SamplingParams greedy{.temperature = 0};
  EXPECT_EQ(Sample({0, 4, 5, 3}, MakeSequence(greedy, stop), {1}), 3);
  EXPECT_EQ(Sample({0, 4, 5, 3}, MakeSequence(greedy, stop, {0}, {3}), {1}), 3);
  EXPECT_EQ(Sample({0, 4, 5, 3}, MakeSequence(greedy, stop, {0}, {3, 3}), {1}), 2);
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnError) {
  Sampler sampler(2, {});
  const std::vector<float> logits = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(sampler.Sample(logits, MakeSequence({.temperature = 0})).status().code(),
            StatusCode::kInternal);
  EXPECT_EQ(sampler.Sample(logits, MakeSequence({.seed = 1})).status().code(),
            StatusCode::kInternal);
}

TEST(Logprobs, AreTheLogOfTheSoftmax) {
  const TokenLogprobs logprobs = ComputeLogprobs(kLogits, 2, 3).value();
  EXPECT_NEAR(logprobs.logprob, std::log(0.15), 1e-6);
  ASSERT_EQ(logprobs.top.size(), 3U);
  EXPECT_EQ(logprobs.top[0].first, 0);
  EXPECT_NEAR(logprobs.top[1].second, std::log(0.3), 1e-6);
}

TEST(Logprobs, HugeLogitsDoNotOverflow) {
  const std::vector<float> logits = {3e4F, 3e4F, -3e38F};
  EXPECT_NEAR(ComputeLogprobs(logits, 0, 0).value().logprob, std::log(0.5), 1e-5);
}

TEST(Logprobs, OfLogitsThatAreNoNumbersAreAnError) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(ComputeLogprobs(std::vector<float>{0, bad}, 0, 0).status().code(),
              StatusCode::kInternal);
  }
}

TEST(Sampler, WhatIsPlannedForTheDeviceDrawsTheSameToken) {
  const Sampler sampler(static_cast<int>(kLogits.size()), {});
  TokenDrawer drawer;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (const SamplingParams& params :
         {SamplingParams{.temperature = 0}, SamplingParams{.top_p = 0},
          SamplingParams{.temperature = 1e-6F}, SamplingParams{}, SamplingParams{.top_k = 2},
          SamplingParams{.temperature = 3, .top_p = 0.9F}, SamplingParams{.min_p = 0.2F}}) {
      SamplingParams seeded = params;
      seeded.seed = seed;
      const Sequence sequence = MakeSequence(seeded);
      const std::optional<RowDraw> draw = sampler.PlanDraw(sequence);
      ASSERT_TRUE(draw.has_value());
      EXPECT_EQ(drawer.Draw(kLogits, *draw), Sample(kLogits, sequence));
    }
  }
}

TEST(Sampler, DrawsOfAdjustedLogitsAreNotForTheDevice) {
  const Sampler sampler(4, {3});
  for (const SamplingParams& params :
       {SamplingParams{.repetition_penalty = 1.1F}, SamplingParams{.presence_penalty = 0.5F},
        SamplingParams{.frequency_penalty = -0.5F}, SamplingParams{.logit_bias = {{1, 2.0F}}}}) {
    SamplingParams seeded = params;
    seeded.seed = 1;
    EXPECT_FALSE(sampler.PlanDraw(MakeSequence(seeded)).has_value());
  }
  // The ban of stop tokens ends once there are min_tokens.
  const StopParams stop{.min_tokens = 1};
  EXPECT_FALSE(sampler.PlanDraw(MakeSequence({.temperature = 0}, stop)).has_value());
  EXPECT_TRUE(sampler.PlanDraw(MakeSequence({.temperature = 0}, stop, {0}, {2})).has_value());
}

}  // namespace
}  // namespace thermocline
