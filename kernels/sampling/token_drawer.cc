#include "kernels/sampling/token_drawer.h"

#include <algorithm>
#include <cmath>

#include "kernels/sampling/score_scan.h"

namespace thermocline {
namespace {

double TotalOf(std::span<const ScoredToken> candidates) {
  double total = 0;
  for (const ScoredToken& candidate : candidates) {
    total += static_cast<double>(candidate.score);
  }
  return total;
}

TokenId PickByWeight(std::span<const ScoredToken> candidates, double uniform) {
  double left = uniform * TotalOf(candidates);
  for (const ScoredToken& candidate : candidates) {
    left -= static_cast<double>(candidate.score);
    if (left < 0) {
      return candidate.token;
    }
  }
  return candidates.front().token;  // rounding ate the last sliver: the first is the likeliest
}

}  // namespace

TokenId TokenDrawer::Draw(std::span<const float> scores, const RowDraw& draw) {
  const BestScore best = FindBest(scores);
  if (!best.finite) {
    return -1;
  }
  return draw.temperature <= 0 ? static_cast<TokenId>(best.index)
                               : DrawFrom(scores, best.score, draw);
}

TokenId TokenDrawer::DrawFrom(std::span<const float> scores, float max, const RowDraw& draw) {
  weights_.resize(scores.size());
  const bool limits_tokens = draw.top_k > 0 && static_cast<size_t>(draw.top_k) < scores.size();
  if (!limits_tokens && draw.min_p <= 0 && draw.top_p >= 1) {
    ExpOfScores(scores, max, draw.temperature, weights_);
    return static_cast<TokenId>(IndexAtPart(weights_, draw.uniform));
  }
  const double total =
      limits_tokens ? CollectTop(scores, max, draw) : CollectLikely(scores, max, draw);
  if (draw.top_p < 1) {
    KeepNucleus(draw.top_p, total);
  }
  return PickByWeight(candidates_, draw.uniform);
}

double TokenDrawer::CollectTop(std::span<const float> scores, float max, const RowDraw& draw) {
  SelectTop(scores, draw.top_k, candidates_);
  for (ScoredToken& candidate : candidates_) {
    candidate.score = std::exp((candidate.score - max) / draw.temperature);
  }
  std::erase_if(candidates_, [&](const ScoredToken& c) { return c.score < draw.min_p; });
  return TotalOf(candidates_);
}

double TokenDrawer::CollectLikely(std::span<const float> scores, float max, const RowDraw& draw) {
  ExpOfScores(scores, max, draw.temperature, weights_);
  double total = 0;
  float bar = draw.min_p;
  if (bar <= 0) {
    // All tokens below this bar together weigh less than half of 1 - top_p: none of them is in the
    // nucleus.
    total = SumOfWeights(weights_);
    bar = static_cast<float>(0.5 * (1.0 - static_cast<double>(draw.top_p)) * total /
                             static_cast<double>(scores.size()));
  }
  candidates_.clear();
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] >= bar) {
      candidates_.push_back({weights_[i], static_cast<TokenId>(i)});
    }
  }
  return draw.min_p > 0 ? TotalOf(candidates_) : total;
}

void TokenDrawer::KeepNucleus(float top_p, double total) {
  const double wanted = static_cast<double>(top_p) * total;
  double mass = 0;
  size_t sorted = 0;
  while (sorted < candidates_.size()) {
    constexpr size_t kFirstSorted = 64;
    const size_t begin = sorted;
    sorted = std::min(candidates_.size(), std::max(kFirstSorted, 4 * sorted));
    std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(begin),
                      candidates_.begin() + static_cast<ptrdiff_t>(sorted), candidates_.end(),
                      RanksBefore);
    for (size_t i = begin; i < sorted; ++i) {
      mass += static_cast<double>(candidates_[i].score);
      if (mass >= wanted) {
        candidates_.resize(i + 1);
        return;
      }
    }
  }
}

}  // namespace thermocline
