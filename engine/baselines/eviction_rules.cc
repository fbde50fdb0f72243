#include "engine/baselines/eviction_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr float kStays = std::numeric_limits<float>::infinity();

void ScoreStreaming(const HeldTokens& held, std::vector<float>& scores) {
  const int num_sinks = std::min(kStreamingSinks, held.num_kept - 1);  // the newest has to stay
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = held.positions[i] < num_sinks ? kStays : 0.0F;
  }
}

void ScoreHeavyHitters(const HeldTokens& held, std::vector<float>& scores) {
  const int num_recent = held.num_kept - held.num_kept / 2;
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = held.positions[i] >= held.length - num_recent ? kStays : held.mass[i];
  }
}

void ScoreSnapKv(const HeldTokens& held, std::vector<float>& scores) {
  const auto window =
      std::lower_bound(held.positions.begin(), held.positions.end(), held.length - kSnapKvWindow);
  const auto num_before = static_cast<int>(window - held.positions.begin());
  for (int i = 0; i < num_before; ++i) {
    const int begin = std::max(0, i - kSnapKvPooling / 2);
    const int end = std::min(num_before, i + kSnapKvPooling / 2 + 1);
    scores[static_cast<size_t>(i)] =
        *std::max_element(held.mass.begin() + begin, held.mass.begin() + end);
  }
  std::fill(scores.begin() + num_before, scores.end(), kStays);
}

}  // namespace

int NumKeptTokens(double budget, int length) {
  return std::max(1, static_cast<int>(std::floor(budget * length)));
}

std::vector<int32_t> TokensToEvict(Baseline baseline, const HeldTokens& held) {
  CHECK(held.num_kept > 0);
  if (held.positions.size() <= static_cast<size_t>(held.num_kept)) {
    return {};
  }
  std::vector<float> scores(held.positions.size());
  if (baseline == Baseline::kStreaming) {
    ScoreStreaming(held, scores);
  } else {
    CHECK(held.mass.size() == held.positions.size());
    baseline == Baseline::kH2o ? ScoreHeavyHitters(held, scores) : ScoreSnapKv(held, scores);
  }
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const size_t num_evicted = scores.size() - static_cast<size_t>(held.num_kept);
  std::nth_element(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(num_evicted), order.end(),
      [&](size_t a, size_t b) { return scores[a] != scores[b] ? scores[a] < scores[b] : a < b; });
  std::vector<int32_t> evicted;
  evicted.reserve(num_evicted);
  for (size_t i = 0; i < num_evicted; ++i) {
    evicted.push_back(held.positions[order[i]]);
  }
  return evicted;
}

}  // namespace thermocline
