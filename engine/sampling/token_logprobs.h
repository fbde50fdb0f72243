#pragma once

#include <utility>
#include <vector>

#include "kernels/base/token.h"

namespace thermocline {

// The log probabilities asked for at one position, natural logarithms.
struct TokenLogprobs {
  TokenId token = 0;
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top;  // most likely first; at most num_logprobs
};

}  // namespace thermocline
