#pragma once

#include <cstdint>

#include "kernels/core/codebook.h"

namespace thermocline {

// Keys of a smaller norm count as zero.
inline constexpr float kSmallestNorm = 1.17549435e-38F;

// Quantises the keys of one block with Hessian-weighted rounding, as GPTQ does it for weights; the
// second moment M of the head's queries takes the part of the Hessian. A key's error e costs its
// products with queries, not its length, and queries are far from isotropic: in SmolLM2-135M half
// of their second moment lies in one direction. So codes make e^T M e small. With M = U^T D U, U
// unit upper triangular, that is sum_i D_i (e_i + sum_{j>i} U_ij e_j)^2. Coordinates are rounded
// from the last to the first, each to the level that best makes up for the errors of later ones
// (Babai's nearest plane). It costs no bits, and readers see no difference. QuantizeKey in
// kernels/core/quantize.h defines the arithmetic.
struct KeyRounding {
  const float* x;        // [num_tokens, dim]
  const float* factors;  // [dim, dim]: U and D of M, see kernels/quant/query_factors.h
  const Codebook* book;
  int32_t num_tokens;  // a multiple of 16, at most 64
  int32_t dim;
  int32_t stride;  // from one token's codes to the next one's
  uint8_t* codes;  // [num_tokens, stride]
  float* scales;   // [num_tokens]; NaN where a key is not finite
  float* scratch;  // [2, dim, num_tokens]
};

}  // namespace thermocline
