#pragma once

#include <span>
#include <vector>

#include "kernels/base/token.h"
#include "kernels/sampling/row_draw.h"
#include "kernels/sampling/top_tokens.h"

namespace thermocline {

// Draws a token from the scores of a vocabulary: a pure function of both. Holds scratch memory
// only; used by one thread at a time.
class TokenDrawer {
 public:
  // -1 when scores are not numbers or leave no token: nothing above -infinity, or one that is NaN
  // or +infinity. Of equal scores the lowest token comes first.
  TokenId Draw(std::span<const float> scores, const RowDraw& draw);

 private:
  TokenId DrawFrom(std::span<const float> scores, float max, const RowDraw& draw);
  // Each leaves in candidates_ what may be drawn, as weights relative to the best token's, and says
  // what top_p is a part of: the total, with what is too unlikely to be in any nucleus.
  double CollectTop(std::span<const float> scores, float max, const RowDraw& draw);
  double CollectLikely(std::span<const float> scores, float max, const RowDraw& draw);
  void KeepNucleus(float top_p, double total);

  std::vector<float> weights_;           // [vocab_size]
  std::vector<ScoredToken> candidates_;  // what is left to draw from
};

}  // namespace thermocline
