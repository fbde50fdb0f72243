#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/page_format.h"

namespace thermocline {

// Second moments of a model's queries over some text, by layer and KV head, scaled as attention
// scales them: what keys of few bits are rounded for (kernels/core/key_rounding.h), and by which
// keys are alike (kernels/core/key_distances.h).
class QueryMoments {
 public:
  // Of an isotropic part that is added, beside the mean square of a coordinate: other text has
  // queries in directions that this text had none in. 0.03 to 1 serve SmolLM2-135M alike.
  static constexpr double kIsotropicPart = 0.3;

  QueryMoments(const KvLayout& layout, int num_heads);

  // qkv [num_tokens, width]: a row's queries come first, in the basis of the pages.
  void Observe(int layer, const float* qkv, int64_t num_tokens, int64_t width);

  // [num_layers][num_kv_heads][head_dim][head_dim]; x^T M x is the mean square of a score with x.
  // The identity for a head without queries.
  std::vector<float> Moments() const;

 private:
  KvLayout layout_;
  size_t group_;                       // query heads of a KV head
  std::vector<double> sums_;           // of products of coordinates i <= j
  std::vector<int64_t> num_observed_;  // [num_layers], tokens
};

}  // namespace thermocline
