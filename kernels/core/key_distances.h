#pragma once

#include <cstdint>

namespace thermocline {

// The distances between a page's keys in the metric of its head's queries: (k - l)^T M (k - l),
// where M = U^T D U is the second moment of the queries (kernels/core/key_rounding.h). Without M it
// is the squared Euclidean distance. MeasureKeyDistances in kernels/core/quantize.h defines the
// arithmetic.
struct KeyDistances {
  const float* x;        // [num_tokens, dim]
  const float* factors;  // [dim, dim], or null: kernels/quant/query_factors.h
  int32_t num_tokens;    // 64
  int32_t dim;
  float* scratch;    // [dim, num_tokens]
  float* distances;  // [num_tokens, num_tokens]
};

}  // namespace thermocline
