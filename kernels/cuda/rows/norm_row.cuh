#pragma once

#include <cstdint>

#include "kernels/cuda/rows/row_parts.cuh"

namespace thermocline {

inline constexpr uint32_t kNormSharedBytes = kRowThreads / 32 * sizeof(float);

// A block a row. A thread adds up every kRowThreads-th square, a warp its lanes', each thread the
// warps'.
template <typename Thread>
HD void NormRow(const Thread& thread, const NormLaunch& of) {
  const float* x = of.x + int64_t{thread.block()} * of.dim;
  float* y = of.y + int64_t{thread.block()} * of.dim;
  float sum = 0;
  for (int i = thread.thread(); i < of.dim; i += kRowThreads) {
    sum = Thread::Fma(x[i], x[i], sum);
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    sum += thread.ShuffleXor(sum, mask);
  }
  float* sums = thread.template shared<float>(0);
  if (thread.lane() == 0) {
    sums[thread.warp()] = sum;
  }
  thread.SyncThreads();
  float total = 0;
  for (int warp = 0; warp < kRowThreads / 32; ++warp) {
    total += sums[warp];
  }
  const float mean = Thread::DivideExactly(total, static_cast<float>(of.dim));
  const float scale = Thread::DivideExactly(1.0F, Thread::SquareRoot(mean + of.epsilon));
  for (int i = thread.thread(); i < of.dim; i += kRowThreads) {
    y[i] = x[i] * scale * of.gain[i];
  }
}

}  // namespace thermocline
