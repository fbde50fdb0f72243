#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/exp.h"
#include "kernels/core/half.h"
#include "kernels/cuda/rows/row_launches.h"

namespace thermocline {

inline constexpr int kRowThreads = 256;
inline constexpr int kPartElements = 1024;

// How many blocks rows are cut into: one for each kPartElements of a row, so that a single long row
// has many.
HD constexpr int NumRowParts(int dim) { return (dim + kPartElements - 1) / kPartElements; }
HD constexpr int64_t NumPartBlocks(int num_rows, int dim) {
  return int64_t{num_rows} * NumRowParts(dim);
}

// act(row, i) for the elements of a block's part, one a thread.
template <typename Thread, typename Act>
HD void ForPart(const Thread& thread, int dim, Act act) {
  const int row = thread.block() / NumRowParts(dim);
  const int begin = thread.block() % NumRowParts(dim) * kPartElements;
  const int end = dim - begin < kPartElements ? dim : begin + kPartElements;
  for (int i = begin + thread.thread(); i < end; i += kRowThreads) {
    act(int64_t{row}, i);
  }
}

template <typename Thread>
HD void EmbedPart(const Thread& thread, const EmbedLaunch& of) {
  ForPart(thread, of.dim, [&](int64_t row, int i) {
    const uint16_t value = of.table[int64_t{of.rows[row]} * of.dim + i];
    of.out[row * of.dim + i] = of.is_bfloat16 ? BFloat16ToFloat(value) : Thread::HalfBits(value);
  });
}

template <typename Thread>
HD void GatherPart(const Thread& thread, const GatherLaunch& of) {
  ForPart(thread, of.dim, [&](int64_t row, int i) {
    of.out[row * of.dim + i] = of.x[int64_t{of.rows[row]} * of.dim + i];
  });
}

template <typename Thread>
HD void AddBiasPart(const Thread& thread, const BiasLaunch& of) {
  ForPart(thread, of.dim, [&](int64_t row, int i) {
    of.x[row * of.dim + i] = Thread::Add(of.x[row * of.dim + i], of.bias[i]);
  });
}

// x / (1 + e^-power). Only numbers below zero meet the exponential, so that nothing overflows.
template <typename Thread>
HD float Gate(float x, float power) {
  const float exp = ExpOfNegative(power < 0 ? power : -power);
  return Thread::DivideExactly(power < 0 ? x * exp : x, 1.0F + exp);
}

// GELU: x / 2 (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
template <typename Thread>
HD void GatePart(const Thread& thread, const GateLaunch& of) {
  ForPart(thread, of.dim, [&](int64_t row, int i) {
    const float* gate = of.gate_up + 2 * row * of.dim;
    const float x = gate[i];
    const float power = of.is_gelu ? 1.59576912F * (x + 0.044715F * x * x * x) : x;
    of.out[row * of.dim + i] = Gate<Thread>(x, power) * gate[of.dim + i];
  });
}

}  // namespace thermocline
