#pragma once

#include <span>
#include <vector>

namespace thermocline {

// Factorises the second moments M of queries, for rounding keys (kernels/core/key_rounding.h).
// moments [heads][head_dim][head_dim], each symmetric. The result has the same shape and holds
// M = U^T D U of each head: U above the diagonal, D on it, zeros below. A direction in which M is
// not positive counts as one of very small moment.
std::vector<float> FactorQueryMoments(std::span<const float> moments, int head_dim);

}  // namespace thermocline
