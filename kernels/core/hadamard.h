#pragma once

#include "kernels/base/hd.h"

// The random-sign Walsh-Hadamard rotation of one vector (TurboQuant, arXiv 2504.19874): r = H S x
// with S a diagonal of signs and H orthonormal. Vectors whose length is no power of two are cut
// into blocks, the largest power of two first (96: 64 + 32), each with a Hadamard of its own size.

namespace thermocline {

HD constexpr int LargestPowerOfTwo(int limit) {
  int power = 1;
  while (2 * power <= limit) {
    power *= 2;
  }
  return power;
}

// 1 / sqrt(size) for a power of two: exact halvings, times 1 / sqrt(2) for an odd exponent.
HD constexpr float InverseSqrtOfPower(int size) {
  float value = 1.0F;
  while (size >= 4) {
    value *= 0.5F;
    size /= 4;
  }
  return size == 2 ? value * 0.70710678F : value;
}

// x: a pointer to floats, or what can be indexed and added to like one.

// H x in place for one power of two.
template <typename Floats>
HD constexpr void HadamardBlock(Floats x, int size) {
  for (int half = 1; half < size; half *= 2) {
    for (int begin = 0; begin < size; begin += 2 * half) {
      for (int i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float scale = InverseSqrtOfPower(size);
  for (int i = 0; i < size; ++i) {
    x[i] *= scale;
  }
}

template <typename Floats>
HD constexpr void Hadamard(Floats x, int dim) {
  for (int done = 0; done < dim;) {
    const int size = LargestPowerOfTwo(dim - done);
    HadamardBlock(x + done, size);
    done += size;
  }
}

// x -> H S x, and back: H is its own inverse.
template <typename Floats>
HD constexpr void RotateForward(Floats x, const float* signs, int dim) {
  for (int i = 0; i < dim; ++i) {
    x[i] *= signs[i];
  }
  Hadamard(x, dim);
}
template <typename Floats>
HD constexpr void RotateBack(Floats x, const float* signs, int dim) {
  Hadamard(x, dim);
  for (int i = 0; i < dim; ++i) {
    x[i] *= signs[i];
  }
}

}  // namespace thermocline
