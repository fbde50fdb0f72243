#include "engine/sampling/logprobs.h"

#include <cmath>
#include <vector>

#include "kernels/sampling/score_scan.h"
#include "kernels/sampling/top_tokens.h"

namespace thermocline {

Result<TokenLogprobs> ComputeLogprobs(std::span<const float> logits, TokenId token, int num_top) {
  const BestScore best = FindBest(logits);
  if (!best.finite) {
    return Internal("the model's output is not a number");
  }
  const double log_sum = static_cast<double>(best.score) + std::log(SumOfExps(logits, best.score));
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };

  TokenLogprobs result{token, logprob(logits[static_cast<size_t>(token)]), {}};
  std::vector<ScoredToken> top;
  SelectTop(logits, num_top, top);
  result.top.reserve(top.size());
  for (const ScoredToken& scored : top) {
    result.top.emplace_back(scored.token, logprob(scored.score));
  }
  return result;
}

}  // namespace thermocline
