#pragma once

#include <bit>
#include <cstdint>

#include "kernels/base/hd.h"

namespace thermocline {

// e^x for x <= 0, within 2 units in the last place and exactly 1 for 0; 0 below -87.3 and for NaN.
// The polynomial of kernels/cpu/isa/elementwise.inl without fused products: the same bits on every
// host and device, if products and sums are not contracted.
HD inline float ExpOfNegative(float x) {
  constexpr float kLowest = -87.3F;
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it leaves a whole number
  const float clamped = x > kLowest ? x : kLowest;
  const float shifted = clamped * 1.44269504F + kRounder;
  const float n = shifted - kRounder;
  const float r = (clamped - n * 0.693145752F) + n * -1.42860677e-6F;  // ln 2 in two parts
  float p = 1.38888889e-3F * r + 8.33333333e-3F;
  p = p * r + 4.16666667e-2F;
  p = p * r + 1.66666667e-1F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) << 23;  // its low bits are n's
  const auto scaled = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
  return x >= kLowest ? scaled : 0.0F;
}

}  // namespace thermocline
