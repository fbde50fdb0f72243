#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/codebook.h"
#include "kernels/core/half.h"

// How one vector becomes codes and one 16-bit scale. These plain loops say what every backend must
// give, bit for bit: sums are of sixteen partial sums (element i belongs to i mod 16) that are
// added pairwise at the end, products and sums are rounded each on its own, ties go down.

namespace thermocline {

// The largest finite half: larger scales are clamped to it.
inline constexpr float kLargestHalf = 65504.0F;

HD inline float AddPairwise(float* sixteen) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      sixteen[i] += sixteen[i + width];
    }
  }
  return sixteen[0];
}

HD inline uint16_t ScaleToHalf(float scale) {
  return FloatToHalf(scale > kLargestHalf ? kLargestHalf : scale);
}

// TurboQuant with the norm-corrected scale |x| / |levels[codes]|: what is decoded,
// scale * levels[code], has the norm of x. A zero vector gets scale 0. NaN as the result says that
// x is not finite. codes [dim]; the scale.
HD inline float QuantizeTurbo(const float* x, int dim, const Codebook& book, uint8_t* codes) {
  float squares[16] = {};
  for (int i = 0; i < dim; ++i) {
    squares[i % 16] += x[i] * x[i];
  }
  const float norm = std::sqrt(AddPairwise(squares));
  const float inverse = norm > 0 ? std::sqrt(static_cast<float>(dim)) / norm : 0.0F;
  float level_squares[16] = {};
  for (int i = 0; i < dim; ++i) {
    const float u = x[i] * inverse;
    int code = 0;
    for (int t = 0; t + 1 < book.num_levels; ++t) {
      code += u <= book.thresholds[t] ? 0 : 1;
    }
    codes[i] = static_cast<uint8_t>(code);
    level_squares[i % 16] += book.levels[code] * book.levels[code];
  }
  // x - x is 0, or NaN where the norm overflowed or was NaN.
  return norm / std::sqrt(AddPairwise(level_squares)) + (norm - norm);
}

// Absolute maximum to 127, with the scale rounded to half first so that the codes fit the scale
// that is stored. NaN as the result says that x is not finite. codes [dim], two's complement.
HD inline float QuantizeInt8(const float* x, int dim, uint8_t* codes) {
  float largest = 0;
  float poison = 0;
  for (int i = 0; i < dim; ++i) {
    const float magnitude = std::fabs(x[i]);
    largest = magnitude > largest ? magnitude : largest;
    poison += x[i] - x[i];
  }
  const float scale = HalfToFloat(ScaleToHalf(largest / 127.0F));
  const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
  for (int i = 0; i < dim; ++i) {
    float code = std::nearbyint(x[i] * inverse);
    code = code > 127.0F ? 127.0F : code < -127.0F ? -127.0F : code;
    codes[i] = static_cast<uint8_t>(static_cast<int8_t>(poison == 0 ? code : 0.0F));
  }
  return scale + poison;
}

// What codes stand for.
HD inline void DequantizeTurbo(const uint8_t* codes, int dim, const Codebook& book, float scale,
                               float* x) {
  for (int i = 0; i < dim; ++i) {
    x[i] = scale * book.levels[codes[i]];
  }
}
HD inline void DequantizeInt8(const uint8_t* codes, int dim, float scale, float* x) {
  for (int i = 0; i < dim; ++i) {
    x[i] = scale * static_cast<float>(static_cast<int8_t>(codes[i]));
  }
}

}  // namespace thermocline
