#include "engine/calibration/query_moments.h"

#include <algorithm>

namespace thermocline {

QueryMoments::QueryMoments(const KvLayout& layout, int num_heads)
    : layout_(layout),
      group_(static_cast<size_t>(num_heads / layout.num_kv_heads)),
      sums_(static_cast<size_t>(layout.num_layers * layout.num_kv_heads) *
            static_cast<size_t>(layout.head_dim) * static_cast<size_t>(layout.head_dim)),
      num_observed_(static_cast<size_t>(layout.num_layers)) {}

void QueryMoments::Observe(int layer, const float* qkv, int64_t num_tokens, int64_t width) {
  const auto dim = static_cast<size_t>(layout_.head_dim);
  const auto num_kv_heads = static_cast<size_t>(layout_.num_kv_heads);
  const size_t num_heads = num_kv_heads * group_;
  num_observed_[static_cast<size_t>(layer)] += num_tokens;
  for (int64_t token = 0; token < num_tokens; ++token) {
    const float* query = qkv + token * width;
    for (size_t head = 0; head < num_heads; ++head, query += dim) {
      double* sums =
          sums_.data() + (static_cast<size_t>(layer) * num_kv_heads + head / group_) * dim * dim;
      for (size_t i = 0; i < dim; ++i) {
        const double factor = query[i];
        for (size_t j = i; j < dim; ++j) {
          sums[i * dim + j] += factor * static_cast<double>(query[j]);
        }
      }
    }
  }
}

std::vector<float> QueryMoments::Moments() const {
  const auto dim = static_cast<size_t>(layout_.head_dim);
  const size_t layer_size = sums_.size() / num_observed_.size();
  std::vector<float> moments(sums_.size());
  for (size_t begin = 0; begin < sums_.size(); begin += dim * dim) {
    const double* sums = sums_.data() + begin;
    double sum = 0;
    for (size_t i = 0; i < dim; ++i) {
      sum += sums[i * dim + i];
    }
    const auto num_queries =
        static_cast<double>(num_observed_[begin / layer_size]) * static_cast<double>(group_);
    // Attention divides scores by the root of dim.
    const double scale = sum > 0 ? 1 / (num_queries * static_cast<double>(dim)) : 0;
    const double isotropic = sum > 0 ? kIsotropicPart * sum * scale / static_cast<double>(dim) : 1;
    const double total = sum > 0 ? 1 + kIsotropicPart : 1;
    for (size_t i = 0; i < dim; ++i) {
      for (size_t j = 0; j < dim; ++j) {
        const double moment = sums[std::min(i, j) * dim + std::max(i, j)] * scale;
        moments[begin + i * dim + j] =
            static_cast<float>((moment + (i == j ? isotropic : 0)) / total);
      }
    }
  }
  return moments;
}

}  // namespace thermocline
