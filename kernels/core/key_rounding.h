#pragma once

#include <cstdint>

#include "kernels/core/codebook.h"

namespace thermocline {

// Keys whose norm is less count as zero.
inline constexpr float kSmallestNorm = 1.17549435e-38F;

// Keys of one block to codes, rounded for the queries that will meet them. What a coded key costs
// is not the length of its error but that error's products with queries, and queries are far from
// isotropic: in SmolLM2-135M half of their second moment lies in one direction. Codes are therefore
// chosen to make e^T M e small, M the second moment of a head's queries. With M = U^T D U, U unit
// upper triangular, that is sum_i D_i (e_i + sum_{j>i} U_ij e_j)^2: from the last coordinate to the
// first, each is rounded to where it best makes up for the errors of those behind it (Babai's
// nearest plane, which GPTQ rounds weights with). It costs bits nothing and readers nothing.
// QuantizeKey in kernels/core/quantize.h says the arithmetic.
struct KeyRounding {
  const float* x;        // [num_tokens, dim]
  const float* factors;  // [dim, dim]: of M, see kernels/quant/query_factors.h
  const Codebook* book;
  int32_t num_tokens;  // a multiple of 16, at most 64
  int32_t dim;
  int32_t stride;  // of codes, from token to token
  uint8_t* codes;  // [num_tokens, stride]
  float* scales;   // [num_tokens]; NaN where a key is not finite
  float* scratch;  // [2, dim, num_tokens]
};

}  // namespace thermocline
