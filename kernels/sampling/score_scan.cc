#include "kernels/sampling/score_scan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/core/exp.h"

namespace thermocline {
namespace {

constexpr size_t kBlock = 1024;

// Whole numbers in the order of the floats, and back: bits of negative ones fall where they rise.
// The zeros are one number.
constexpr int32_t Flip(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }
constexpr int32_t OrderOf(float score) { return Flip(std::bit_cast<int32_t>(score + 0.0F)); }
constexpr float ScoreOf(int32_t order) { return std::bit_cast<float>(Flip(order)); }

double SumOfBlock(std::span<const float> weights) {
  std::array<double, 8> sums{};
  size_t i = 0;
  for (; i + sums.size() <= weights.size(); i += sums.size()) {
    for (size_t lane = 0; lane < sums.size(); ++lane) {
      sums[lane] += static_cast<double>(weights[i + lane]);
    }
  }
  double total = 0;
  for (; i < weights.size(); ++i) {
    total += static_cast<double>(weights[i]);
  }
  for (const double sum : sums) {
    total += sum;
  }
  return total;
}

std::span<const float> BlockAt(std::span<const float> all, size_t begin) {
  return all.subspan(begin, std::min(kBlock, all.size() - begin));
}

}  // namespace

// Compared as whole numbers, of which a compiler may take maxima in any order.
BestScore FindBest(std::span<const float> scores) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  int32_t most = OrderOf(-kInfinity);
  int32_t least = most;
  size_t best_block = 0;
  for (size_t begin = 0; begin < scores.size(); begin += kBlock) {
    int32_t block_most = OrderOf(-kInfinity);
    for (const float score : BlockAt(scores, begin)) {
      const int32_t order = OrderOf(score);
      block_most = std::max(block_most, order);
      least = std::min(least, order);
    }
    if (block_most > most) {
      most = block_most;
      best_block = begin;
    }
  }
  BestScore best;
  // A NaN is beyond the infinity of its sign.
  best.finite =
      least >= OrderOf(-kInfinity) && most > OrderOf(-kInfinity) && most < OrderOf(kInfinity);
  best.score = ScoreOf(most);
  const std::span<const float> rest = scores.subspan(best_block);
  best.index = best_block +
               static_cast<size_t>(std::find(rest.begin(), rest.end(), best.score) - rest.begin());
  return best;
}

void ExpOfScores(std::span<const float> scores, float max, float temperature,
                 std::span<float> weights) {
  CHECK(scores.size() == weights.size());
  const float* in = scores.data();
  float* out = weights.data();
  const size_t count = scores.size();
  for (size_t i = 0; i < count; ++i) {
    out[i] = ExpOfNegative((in[i] - max) / temperature);
  }
}

double SumOfWeights(std::span<const float> weights) {
  double total = 0;
  for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
    total += SumOfBlock(BlockAt(weights, begin));
  }
  return total;
}

double SumOfExps(std::span<const float> scores, float max) {
  std::array<float, kBlock> weights;  // written before it is read, and stays in the first cache
  double total = 0;
  for (size_t begin = 0; begin < scores.size(); begin += kBlock) {
    const std::span<const float> block = BlockAt(scores, begin);
    for (size_t i = 0; i < block.size(); ++i) {
      weights[i] = ExpOfNegative(block[i] - max);
    }
    total += SumOfBlock(std::span(weights).first(block.size()));
  }
  return total;
}

size_t IndexAtPart(std::span<const float> weights, double part) {
  double left = part * SumOfWeights(weights);
  size_t begin = 0;
  for (; begin + kBlock < weights.size(); begin += kBlock) {
    const double sum = SumOfBlock(BlockAt(weights, begin));
    if (left < sum) {
      break;
    }
    left -= sum;
  }
  for (size_t i = begin; i < weights.size(); ++i) {
    left -= static_cast<double>(weights[i]);
    if (left < 0) {
      return i;
    }
  }
  const auto last = std::find_if(weights.rbegin(), weights.rend(), [](float w) { return w > 0; });
  CHECK(last != weights.rend());
  return static_cast<size_t>(weights.rend() - last) - 1;
}

}  // namespace thermocline
