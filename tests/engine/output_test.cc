#include "engine/output.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>

#include "engine/stop_matcher.h"
#include "tests/testing/fake_tokenizer.h"

namespace thermocline {
namespace {

// 0 ends; the euro sign is cut into three tokens.
const std::vector<std::string> kTexts = {"",  "a", "b", "st",   "op",   "ST",
                                         " ", "x", "y", "\xe2", "\x82", "\xac"};

std::shared_ptr<const Request> MakeRequest(StopParams stop) {
  Request request;
  request.prompt = {1, 2};
  request.stop = std::move(stop);
  return std::make_shared<const Request>(std::move(request));
}

struct Outcome {
  std::string text;
  std::vector<TokenId> ids;
  std::optional<FinishReason> reason;
  std::string stop_reason;
};

// Token after token, as the engine gives them.
Outcome Generate(StopParams stop, const std::vector<TokenId>& tokens) {
  const FakeTokenizer tokenizer(kTexts);
  ChoiceOutput choice(MakeRequest(std::move(stop)), 0, tokenizer, 100);
  Outcome outcome;
  for (const TokenId token : tokens) {
    if (choice.finished()) {
      break;
    }
    const OutputDelta delta = choice.Add(std::vector{token}, {});
    outcome.text += delta.text;
    outcome.ids.insert(outcome.ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    outcome.reason = delta.finish_reason;
    outcome.stop_reason = delta.stop_reason;
  }
  return outcome;
}

TEST(ChoiceOutput, EndTokenCountsButHasNoText) {
  const Outcome outcome = Generate({.max_tokens = 9}, {1, 2, 0, 1});
  EXPECT_EQ(outcome.text, "ab");
  EXPECT_EQ(outcome.ids, (std::vector<TokenId>{1, 2, 0}));
  EXPECT_EQ(outcome.reason, FinishReason::kStop);
}

TEST(ChoiceOutput, IgnoreEosGoesOn) {
  const Outcome outcome = Generate({.max_tokens = 3, .ignore_eos = true}, {1, 0, 2, 1});
  EXPECT_EQ(outcome.text, "ab");
  EXPECT_EQ(outcome.reason, FinishReason::kLength);
}

TEST(ChoiceOutput, StopStringIsFoundAcrossTokens) {
  const Outcome outcome = Generate({.max_tokens = 9, .stop_strings = {"stop"}}, {1, 3, 4, 2});
  EXPECT_EQ(outcome.text, "a");
  EXPECT_EQ(outcome.ids, (std::vector<TokenId>{1, 3, 4}));
  EXPECT_EQ(outcome.reason, FinishReason::kStop);
  EXPECT_EQ(outcome.stop_reason, "stop");
}

TEST(ChoiceOutput, StopStringIsKeptWhenAskedFor) {
  const Outcome outcome = Generate(
      {.max_tokens = 9, .stop_strings = {"stop"}, .include_stop_string = true}, {1, 3, 4, 2});
  EXPECT_EQ(outcome.text, "astop");
}

TEST(ChoiceOutput, HeldTextComesWhenItIsNoStopString) {
  const Outcome outcome = Generate({.max_tokens = 9, .stop_strings = {"stop"}}, {1, 3, 2, 0});
  EXPECT_EQ(outcome.text, "astb");
}

TEST(ChoiceOutput, HeldTextComesAtTheEnd) {
  const Outcome outcome = Generate({.max_tokens = 2, .stop_strings = {"stop"}}, {1, 3});
  EXPECT_EQ(outcome.text, "ast");
  EXPECT_EQ(outcome.reason, FinishReason::kLength);
}

TEST(ChoiceOutput, NothingEndsBeforeMinTokens) {
  const Outcome outcome =
      Generate({.max_tokens = 9, .min_tokens = 4, .stop_token_ids = {2}, .stop_strings = {"stop"}},
               {2, 3, 4, 2, 1});
  EXPECT_EQ(outcome.ids.size(), 4U);
  EXPECT_EQ(outcome.stop_reason, "2");
}

TEST(ChoiceOutput, StopTokenIdNamesItself) {
  const Outcome outcome = Generate({.max_tokens = 9, .stop_token_ids = {7}}, {1, 7, 2});
  EXPECT_EQ(outcome.text, "a");
  EXPECT_EQ(outcome.stop_reason, "7");
}

// Where each token begins, as deltas tell it.
std::vector<size_t> Offsets(StopParams stop, const std::vector<TokenId>& tokens) {
  const FakeTokenizer tokenizer(kTexts);
  ChoiceOutput choice(MakeRequest(std::move(stop)), 0, tokenizer, 100);
  std::vector<size_t> offsets;
  for (const TokenId token : tokens) {
    if (choice.finished()) {
      break;
    }
    const OutputDelta delta = choice.Add(std::vector{token}, std::vector{TokenLogprobs{token}});
    offsets.insert(offsets.end(), delta.text_offsets.begin(), delta.text_offsets.end());
  }
  return offsets;
}

TEST(ChoiceOutput, OffsetsAreCodePointsOfTheText) {
  using Tokens = std::vector<size_t>;
  EXPECT_EQ(Offsets({.max_tokens = 4}, {1, 3, 2, 1}), (Tokens{0, 1, 3, 4}));
  EXPECT_EQ(Offsets({.max_tokens = 5}, {1, 9, 10, 11, 2}), (Tokens{0, 1, 1, 1, 2}));
  EXPECT_EQ(Offsets({.max_tokens = 9}, {1, 2, 0}), (Tokens{0, 1, 2}));  // the end
  EXPECT_EQ(Offsets({.max_tokens = 9}, {1, 9, 0}), (Tokens{0, 1, 2}));  // behind U+FFFD
  EXPECT_EQ(Offsets({.max_tokens = 9, .stop_token_ids = {3}}, {1, 3}), (Tokens{0, 1}));
  EXPECT_EQ(Offsets({.max_tokens = 9, .ignore_eos = true}, {1, 0, 2, 0, 1, 1, 1, 1, 1}),
            (Tokens{0, 1, 1, 2, 2, 3, 4, 5, 6}));
}

TEST(ChoiceOutput, CharacterComesWholeOrNotAtAll) {
  const FakeTokenizer tokenizer(kTexts);
  ChoiceOutput choice(MakeRequest({.max_tokens = 9}), 0, tokenizer, 100);
  EXPECT_EQ(choice.Add(std::vector<TokenId>{9}, {}).text, "");
  EXPECT_EQ(choice.Add(std::vector<TokenId>{10}, {}).text, "");
  EXPECT_EQ(choice.Add(std::vector<TokenId>{11}, {}).text, "\xe2\x82\xac");
}

TEST(ChoiceOutput, HalfACharacterAtTheEndIsReplaced) {
  EXPECT_EQ(Generate({.max_tokens = 2}, {9, 10}).text, "\xef\xbf\xbd");
}

TEST(ChoiceOutput, LengthOfTheModelEndsIt) {
  const FakeTokenizer tokenizer(kTexts);
  ChoiceOutput choice(MakeRequest({.max_tokens = 50}), 0, tokenizer, 4);  // prompt 2 + 2
  choice.Add(std::vector<TokenId>{1}, {});
  EXPECT_EQ(choice.Add(std::vector<TokenId>{1}, {}).finish_reason, FinishReason::kLength);
}

// The definition, by search: the stop string whose end comes first; of those, the longest.
std::optional<std::pair<std::string, size_t>> FirstStop(const std::string& text,
                                                        const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const bool ends = stops[i].size() <= end &&
                        text.compare(end - stops[i].size(), stops[i].size(), stops[i]) == 0;
      if (ends && (!best || stops[i].size() > stops[*best].size())) {
        best = i;
      }
    }
    if (best) {
      return std::pair(text.substr(0, end - stops[*best].size()), *best);
    }
  }
  return std::nullopt;
}

TEST(StopMatcher, FindsTheSameHoweverTheTextIsCut) {
  std::mt19937 random(1);
  const auto random_text = [&](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) {
      text += static_cast<char>('a' + random() % 3);
    }
    return text;
  };
  int num_found = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < random() % 3 + 1; ++i) {
      stops.push_back(random_text(random() % 5 + 1));
    }
    const std::string text = random_text(random() % 30);
    const auto expected = FirstStop(text, stops);
    StopMatcher matcher(stops);
    std::string out;
    std::optional<size_t> found;
    for (size_t begin = 0; begin < text.size() && !found;) {
      const size_t length = random() % 4 + 1;
      found = matcher.Add(std::string_view(text).substr(begin, length), true, false, out);
      begin += length;
    }
    if (!found) {
      out += matcher.TakeHeld();
    }
    ASSERT_EQ(found.has_value(), expected.has_value());
    ASSERT_EQ(out, expected ? expected->first : text);
    if (expected) {
      ASSERT_EQ(stops[*found], stops[expected->second]);
      ++num_found;
    }
  }
  EXPECT_GT(num_found, 1000);
}

}  // namespace
}  // namespace thermocline
