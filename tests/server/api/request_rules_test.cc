#include "server/api/request_rules.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace thermocline {
namespace {

std::string FieldOf(const Fault& fault) { return fault.has_value() ? fault->field : ""; }

Request PromptOf(size_t num_tokens) {
  Request request;
  request.prompt.assign(num_tokens, 1);
  return request;
}

TEST(RequestRules, TopKIsAllWhereItIsNotLessThanTheVocabulary) {
  EXPECT_EQ(ClampTopK(-1, 300), 0);
  EXPECT_EQ(ClampTopK(0, 300), 0);
  EXPECT_EQ(ClampTopK(1, 300), 1);
  EXPECT_EQ(ClampTopK(299, 300), 299);
  EXPECT_EQ(ClampTopK(300, 300), 0);
  EXPECT_EQ(ClampTopK(kMaxCount, 300), 0);
}

TEST(RequestRules, TokensAreThoseOfTheVocabulary) {
  EXPECT_TRUE(IsToken(0, 300));
  EXPECT_TRUE(IsToken(299, 300));
  EXPECT_FALSE(IsToken(300, 300));
  EXPECT_FALSE(IsToken(-1, 300));
}

TEST(RequestRules, PenaltiesLookBackAtAllTokens) {
  const SamplingParams plain;
  EXPECT_EQ(FieldOf(CheckRepeatLastN(64, plain)), "");
  for (const SamplingParams& sampling :
       {SamplingParams{.repetition_penalty = 1.1F}, SamplingParams{.presence_penalty = 1},
        SamplingParams{.frequency_penalty = -1}}) {
    EXPECT_EQ(FieldOf(CheckRepeatLastN(-1, sampling)), "");
    EXPECT_EQ(FieldOf(CheckRepeatLastN(0, sampling)), "repeat_last_n");
    EXPECT_EQ(FieldOf(CheckRepeatLastN(64, sampling)), "repeat_last_n");
  }
}

TEST(RequestRules, StopStringsHaveALength) {
  EXPECT_EQ(FieldOf(CheckStopString("")), "stop");
  EXPECT_EQ(FieldOf(CheckStopString("x")), "");
  EXPECT_EQ(FieldOf(CheckStopString(std::string(kMaxStopBytes, 'x'))), "");
  EXPECT_EQ(FieldOf(CheckStopString(std::string(kMaxStopBytes + 1, 'x'))), "stop");
}

TEST(RequestRules, WhatExcludesEachOtherIsAFault) {
  EXPECT_EQ(FieldOf(CheckBestOf(2, 2)), "");
  EXPECT_EQ(FieldOf(CheckBestOf(3, 2)), "best_of");
  EXPECT_EQ(FieldOf(CheckStreamOptions(/*stream=*/true, /*include_usage=*/true)), "");
  EXPECT_EQ(FieldOf(CheckStreamOptions(false, false)), "");
  EXPECT_EQ(FieldOf(CheckStreamOptions(false, true)), "stream_options");
  EXPECT_EQ(FieldOf(CheckPromptLogprobs(0, /*stream=*/false)), "");
  EXPECT_EQ(FieldOf(CheckPromptLogprobs(-1, true)), "");
  EXPECT_EQ(FieldOf(CheckPromptLogprobs(0, true)), "prompt_logprobs");
  EXPECT_EQ(FieldOf(CheckTopLogprobs(0, /*logprobs=*/false)), "");
  EXPECT_EQ(FieldOf(CheckTopLogprobs(1, true)), "");
  EXPECT_EQ(FieldOf(CheckTopLogprobs(1, false)), "top_logprobs");
  EXPECT_EQ(FieldOf(CheckMaxTokens("n_predict", 0, /*asks_about_prompt=*/false)), "n_predict");
  EXPECT_EQ(FieldOf(CheckMaxTokens("n_predict", 0, true)), "");
  EXPECT_EQ(FieldOf(CheckMaxTokens("n_predict", -1, false)), "");
  EXPECT_EQ(FieldOf(CheckNumPrompts(2, {.session_id = "talk"})), "session_id");
  EXPECT_EQ(FieldOf(CheckNumPrompts(1, {.session_id = "talk"})), "");
  EXPECT_EQ(FieldOf(CheckNumPrompts(2, {})), "");
}

TEST(RequestRules, SessionsHaveNamesThatAFileMayHave) {
  for (const char* id : {"", "talk", "a.b_c-1"}) {
    Request request;
    EXPECT_EQ(FieldOf(SetSession(id, request)), "") << id;
    EXPECT_EQ(request.session_id, id);
  }
  for (const char* id : {"../talk", "a b", ".."}) {
    Request request;
    EXPECT_EQ(FieldOf(SetSession(id, request)), "session_id") << id;
  }
  Request request;
  EXPECT_EQ(FieldOf(SetSession(std::string(kMaxSessionIdBytes + 1, 'x'), request)), "session_id");
}

TEST(RequestRules, ASaltPartsTheTenantAndExcludesASession) {
  Request salted;
  EXPECT_EQ(FieldOf(SetCacheScope("salt", salted)), "");
  EXPECT_EQ(salted.tenant, std::string("default\0salt", 12));
  Request plain;
  EXPECT_EQ(FieldOf(SetCacheScope(std::nullopt, plain)), "");
  EXPECT_EQ(plain.tenant, "default");
  EXPECT_EQ(FieldOf(SetCacheScope("", plain)), "cache_salt");
  Request named{.session_id = "talk"};
  EXPECT_EQ(FieldOf(SetCacheScope("salt", named)), "cache_salt");
}

TEST(RequestRules, MoreThanTheRoomIsCutAndToldOnce) {
  std::vector<std::string> warnings;
  Request request = PromptOf(10);
  request.stop.min_tokens = 8;
  EXPECT_EQ(FieldOf(FitLength(16, "prompt", 9, request, warnings)), "");
  EXPECT_EQ(request.stop.max_tokens, 6);
  EXPECT_EQ(request.stop.min_tokens, 6);  // asked for within max_tokens, so cut with it
  EXPECT_EQ(warnings.size(), 1U);
  EXPECT_EQ(FieldOf(FitLength(16, "prompt", -1, request, warnings)), "");
  EXPECT_EQ(request.stop.max_tokens, 6);
  EXPECT_EQ(FieldOf(FitLength(16, "prompt", 6, request, warnings)), "");
  EXPECT_EQ(warnings.size(), 1U);
}

TEST(RequestRules, APromptHasTokensAndLeavesRoomForOne) {
  std::vector<std::string> warnings;
  Request none = PromptOf(0);
  EXPECT_EQ(FieldOf(FitLength(16, "messages", 1, none, warnings)), "messages");
  Request whole = PromptOf(16);
  EXPECT_EQ(FieldOf(FitLength(16, "messages", 1, whole, warnings)), "messages");
  EXPECT_EQ(FieldOf(FitLength(16, "messages", 0, whole, warnings)), "");
  EXPECT_EQ(whole.stop.max_tokens, 0);
  Request longer = PromptOf(17);
  EXPECT_EQ(FieldOf(FitLength(16, "messages", 0, longer, warnings)), "messages");
  Request minimum = PromptOf(10);
  minimum.stop.min_tokens = 5;
  EXPECT_EQ(FieldOf(FitLength(16, "prompt", 4, minimum, warnings)), "min_tokens");
  EXPECT_TRUE(warnings.empty());
}

TEST(RequestRules, DefaultsLieWithinTheirRanges) {
  for (const FieldRange<double>& range :
       {kTemperatureRange, kTopPRange, kMinPRange, kRepetitionPenaltyRange, kPenaltyRange,
        kLogitBiasRange}) {
    EXPECT_LE(range.min, range.fallback);
    EXPECT_LE(range.fallback, range.max);
  }
  const SamplingParams plain;
  EXPECT_EQ(plain.temperature, kTemperatureRange.fallback);
  EXPECT_EQ(plain.top_p, kTopPRange.fallback);
  EXPECT_EQ(plain.min_p, kMinPRange.fallback);
  EXPECT_EQ(plain.repetition_penalty, kRepetitionPenaltyRange.fallback);
  EXPECT_EQ(plain.presence_penalty, kPenaltyRange.fallback);
  EXPECT_EQ(plain.num_logprobs, kLogprobsRange.fallback);
}

}  // namespace
}  // namespace thermocline
