#pragma once

#include <span>
#include <vector>

namespace thermocline {

// What keys are rounded by (kernels/core/key_rounding.h), from the second moments M of queries.
// moments [heads][head_dim][head_dim], each symmetric; the result has their shape: M = U^T D U of
// each, with U's part above the diagonal, D on it and zeros below. A direction in which M is not
// positive counts as one of very small moment.
std::vector<float> FactorQueryMoments(std::span<const float> moments, int head_dim);

}  // namespace thermocline
