#pragma once

#include <span>
#include <vector>

#include "kernels/base/token.h"

namespace thermocline {

struct ScoredToken {
  float score = 0;
  TokenId token = 0;
};

// The one order of tokens that everything here uses: by score, and the lowest id first among
// equals.
constexpr bool RanksBefore(const ScoredToken& a, const ScoredToken& b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

// The `count` tokens of the highest scores, best first (all of them when there are fewer), in one
// pass over `scores`, which hold no NaN. Reuses the memory of `top`.
void SelectTop(std::span<const float> scores, int count, std::vector<ScoredToken>& top);

}  // namespace thermocline
