#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/attention/shape.h"

namespace thermocline {

// The online softmax (arXiv 1805.02867) of a warp's rows: lanes 4 g to 4 g + 3 share row g. Scores
// are exponents of two.
template <typename Thread>
class SoftmaxRows {
 public:
  HD explicit SoftmaxRows(const Thread& thread) : x_(thread) {}

  HD float max() const { return max_; }
  HD float sum() const { return sum_; }
  HD float page_max() const { return page_max_; }
  HD float page_sum() const { return page_sum_; }

  HD float LargestOfRow(float x) const {
    x = fmaxf(x, x_.ShuffleXor(x, 1));
    return fmaxf(x, x_.ShuffleXor(x, 2));
  }
  HD float SumOfRow(float x) const {
    x += x_.ShuffleXor(x, 1);
    return x + x_.ShuffleXor(x, 2);
  }

  // Turns a chunk's scores into weights. Returns what outputs of earlier chunks are multiplied
  // with. chunk_max() is of these scores.
  template <int kProducts>
  HD float Weigh(float (&scores)[kProducts][2]) {
    chunk_max_ = -INFINITY;
    for (int i = 0; i < 2 * kProducts; ++i) {
      chunk_max_ = fmaxf(chunk_max_, scores[i / 2][i % 2]);
    }
    chunk_max_ = LargestOfRow(chunk_max_);
    const float max = fmaxf(max_, chunk_max_);
    const float kept = Thread::Exp2(max_ - max);
    float chunk_sum = 0;
    for (int i = 0; i < 2 * kProducts; ++i) {
      float& score = scores[i / 2][i % 2];
      score = Thread::Exp2(score - max);
      chunk_sum += score;
    }
    chunk_sum = SumOfRow(chunk_sum);
    sum_ = Thread::Fma(sum_, kept, chunk_sum);
    page_sum_ = Thread::Fma(page_sum_, kept, chunk_sum);
    page_max_ = fmaxf(page_max_, chunk_max_);
    max_ = max;
    return kept;
  }
  HD float chunk_max() const { return chunk_max_; }

  HD void BeginPage() {
    page_sum_ = 0;
    page_max_ = -INFINITY;
  }

 private:
  const Thread& x_;
  float max_ = kLowestScore;
  float sum_ = 0;
  float chunk_max_ = -INFINITY;
  float page_max_ = -INFINITY;
  float page_sum_ = 0;
};

}  // namespace thermocline
