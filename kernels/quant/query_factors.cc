#include "kernels/quant/query_factors.h"

#include <algorithm>
#include <cstddef>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr double kSmallestMoment = 1e-6;  // relative to the mean of the diagonal

// Factorises one head's M, which `rest` holds at first. Each row of U is read from `rest`, and its
// part of M is then subtracted.
void Factor(std::span<double> rest, size_t dim, float* factors) {
  double mean = 0;
  for (size_t i = 0; i < dim; ++i) {
    mean += rest[i * dim + i] / static_cast<double>(dim);
  }
  for (size_t i = 0; i < dim; ++i) {
    const double pivot = std::max(rest[i * dim + i], kSmallestMoment * mean);
    factors[i * dim + i] = static_cast<float>(pivot);
    for (size_t j = i + 1; j < dim; ++j) {
      factors[i * dim + j] = static_cast<float>(rest[i * dim + j] / pivot);
    }
    for (size_t j = i + 1; j < dim; ++j) {
      for (size_t k = j; k < dim; ++k) {
        rest[j * dim + k] -= rest[i * dim + j] * rest[i * dim + k] / pivot;
      }
    }
  }
}

}  // namespace

std::vector<float> FactorQueryMoments(std::span<const float> moments, int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  CHECK(dim > 0 && moments.size() % (dim * dim) == 0);
  std::vector<float> factors(moments.size());
  for (size_t begin = 0; begin < moments.size(); begin += dim * dim) {
    const std::span<const float> head = moments.subspan(begin, dim * dim);
    std::vector<double> rest(head.begin(), head.end());
    Factor(rest, dim, factors.data() + begin);
  }
  return factors;
}

}  // namespace thermocline
