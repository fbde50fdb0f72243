#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "scheduler/request.h"
#include "scheduler/tier_policy.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/recording_sink.h"

// Requests that the tests of the engine send, and what a fake model has to answer.

namespace thermocline {

inline constexpr int kVocab = 500;  // of the fake models

inline std::vector<TokenId> Counting(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Generates max_tokens tokens for each choice, whatever they are.
inline Request MakeRequest(std::vector<TokenId> prompt, int max_tokens, int num_choices = 1) {
  Request request;
  request.prompt = std::move(prompt);
  request.num_choices = num_choices;
  request.stop = {.max_tokens = max_tokens, .ignore_eos = true};
  return request;
}

// A request of one choice that an engine has taken, and what it gives.
struct Submitted {
  Request request;
  std::shared_ptr<Recording> recording;

  std::vector<TokenId> expected() const {
    return FakeRunner::ExpectedOutput(request.prompt, 0, request.stop.max_tokens, kVocab);
  }
  void ExpectRight() const { EXPECT_EQ(recording->tokens(), expected()); }
};

}  // namespace thermocline
