#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/codebook.h"
#include "kernels/core/half.h"
#include "kernels/core/key_distances.h"
#include "kernels/core/key_rounding.h"

// How one vector becomes codes and one 16-bit scale. These plain loops define what every backend
// must give, bit for bit. A sum is sixteen partial sums (element i goes to i mod 16), added
// pairwise at the end. Each product and each sum is rounded on its own. Ties go down.

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

// The code that x is rounded to; a NaN goes to the last.
HD inline int CodeOf(float x, const Codebook& book) {
  int code = 0;
  for (int t = 0; t + 1 < book.num_levels; ++t) {
    code += x <= book.thresholds[t] ? 0 : 1;
  }
  return code;
}

// TurboQuant with the norm-corrected scale |x| / |levels[codes]|: the decoded vector
// scale * levels[code] has the norm of x. A zero vector gets scale 0. codes [dim]. Returns the
// scale; NaN when x is not finite.
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
    const int code = CodeOf(u, book);
    codes[i] = static_cast<uint8_t>(code);
    level_squares[i % 16] += book.levels[code] * book.levels[code];
  }
  // x - x is 0, or NaN where the norm overflowed or was NaN.
  return norm / std::sqrt(AddPairwise(level_squares)) + (norm - norm);
}

HD inline float DotInOrder(const float* x, const float* y, int dim) {
  float sum = 0;
  for (int i = 0; i < dim; ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

// The fitted scale, or the norm-corrected one where the fit is not a sound number.
HD inline float SaneScale(float fitted, float norm_corrected) {
  const float bounded = 2 * norm_corrected >= fitted ? fitted : norm_corrected;
  return fitted >= 0.5F * norm_corrected ? bounded : norm_corrected;
}

// Quantises one key of a KeyRounding. While it is rounded it has the norm-corrected scale of
// TurboQuant. The final scale makes queries' scores right on average: u^T M u = scale u^T M q.
HD inline void QuantizeKey(const KeyRounding& keys, int token) {
  const int dim = keys.dim;
  const Codebook& book = *keys.book;
  const float* x = keys.x + static_cast<int64_t>(token) * dim;
  uint8_t* codes = keys.codes + static_cast<int64_t>(token) * keys.stride;
  float* u = keys.scratch;
  float* e = u + dim;  // u less the decoded value; u itself for coordinates that have no code yet
  const float size = std::sqrt(static_cast<float>(dim));
  const float norm = std::sqrt(DotInOrder(x, x, dim));
  const float inverse = norm >= kSmallestNorm ? size / norm : 0.0F;
  float level_squares = 0;
  for (int i = 0; i < dim; ++i) {
    u[i] = x[i] * inverse;
    const float level = book.levels[CodeOf(u[i], book)];
    level_squares += level * level;
  }
  const float rounding_scale = size / std::sqrt(level_squares);
  const float rounding_inverse = 1.0F / rounding_scale;
  float key_square = 0;  // u^T M u
  float key_error = 0;   // u^T M e
  for (int i = dim - 1; i >= 0; --i) {
    const float* row = keys.factors + static_cast<int64_t>(i) * dim;
    const int behind = dim - 1 - i;
    const float carried = DotInOrder(row + i + 1, e + i + 1, behind);
    const float wanted = u[i] + carried;
    const int code = CodeOf(wanted * rounding_inverse, book);
    const float decoded = rounding_scale * book.levels[code];
    codes[i] = static_cast<uint8_t>(code);
    e[i] = u[i] - decoded;
    const float key = u[i] + DotInOrder(row + i + 1, u + i + 1, behind);
    key_square += row[i] * (key * key);
    key_error += row[i] * (key * (wanted - decoded));
  }
  const float fitted = rounding_scale * (key_square / (key_square - key_error));
  keys.scales[token] = SaneScale(fitted, rounding_scale) * (norm / size) + (norm - norm);
}

inline void QuantizeKeys(const KeyRounding& keys) {
  for (int token = 0; token < keys.num_tokens; ++token) {
    QuantizeKey(keys, token);
  }
}

// Sums are formed in order, without partial sums.
HD inline void MeasureKeyDistances(const KeyDistances& keys) {
  const int dim = keys.dim;
  const int num_tokens = keys.num_tokens;
  for (int t = 0; t < num_tokens; ++t) {
    const float* x = keys.x + static_cast<int64_t>(t) * dim;
    for (int i = 0; i < dim; ++i) {
      float& value = keys.scratch[i * num_tokens + t];
      value = x[i];
      if (keys.factors != nullptr) {
        const float* row = keys.factors + static_cast<int64_t>(i) * dim;
        value = (x[i] + DotInOrder(row + i + 1, x + i + 1, dim - 1 - i)) * std::sqrt(row[i]);
      }
    }
  }
  for (int s = 0; s < num_tokens; ++s) {
    for (int t = 0; t < num_tokens; ++t) {
      float sum = 0;
      for (int i = 0; i < dim; ++i) {
        const float* keys_of = keys.scratch + static_cast<int64_t>(i) * num_tokens;
        const float apart = keys_of[t] - keys_of[s];
        sum += apart * apart;
      }
      keys.distances[s * num_tokens + t] = sum;
    }
  }
}

// Maps the largest magnitude to 127. The scale is rounded to half first, so that the codes fit the
// scale that is stored. codes [dim], two's complement. Returns the scale; NaN when x is not finite.
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

// Dequantises codes.
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
