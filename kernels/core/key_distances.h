#pragma once

#include <cstdint>

namespace thermocline {

// How far a page's keys lie from each other, as its head's queries see it: (k - l)^T M (k - l),
// with the second moment M = U^T D U of the queries (kernels/core/key_rounding.h). Without one, the
// square of the plain distance. MeasureKeyDistances in kernels/core/quantize.h says the arithmetic.
struct KeyDistances {
  const float* x;        // [num_tokens, dim]
  const float* factors;  // [dim, dim], or null: kernels/quant/query_factors.h
  int32_t num_tokens;    // 64
  int32_t dim;
  float* scratch;    // [dim, num_tokens]
  float* distances;  // [num_tokens, num_tokens]
};

}  // namespace thermocline
