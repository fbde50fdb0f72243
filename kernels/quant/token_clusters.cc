#include "kernels/quant/token_clusters.h"

#include <cstddef>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr size_t kTokens = kClusteredTokens;

// Clusters are known by their first token.
class WardClusters {
 public:
  explicit WardClusters(std::span<float> distances) : distances_(distances) {
    for (size_t i = 0; i < kTokens; ++i) {
      active_[i] = static_cast<uint8_t>(i);
      cluster_of_[i] = static_cast<uint8_t>(i);
      sizes_[i] = 1;
    }
    for (float& distance : distances_) {
      distance *= 0.5F;  // what joining two single tokens adds to the sum
    }
    for (size_t i = 0; i < kTokens; ++i) {
      FindNearest(i);
    }
  }

  void MergeNearest() {
    size_t first = active_[0];
    for (size_t n = 1; n < num_active_; ++n) {
      const size_t i = active_[n];
      first = At(i, nearest_[i]) < At(first, nearest_[first]) ? i : first;
    }
    const size_t second = nearest_[first];
    first < second ? Merge(first, second) : Merge(second, first);
  }

  TokenClusters Rows() const {
    CHECK(num_active_ == kNumClusters);
    TokenClusters clusters;
    std::array<uint8_t, kTokens> rows{};
    for (size_t n = 0; n < num_active_; ++n) {
      rows[active_[n]] = static_cast<uint8_t>(n);
      clusters.sizes[n] = sizes_[active_[n]];
      clusters.spreads[n] = sums_[active_[n]] / static_cast<float>(sizes_[active_[n]]);
    }
    for (size_t i = 0; i < kTokens; ++i) {
      clusters.row_of[i] = rows[cluster_of_[i]];
    }
    return clusters;
  }

 private:
  float& At(size_t i, size_t j) { return distances_[i * kTokens + j]; }

  void FindNearest(size_t i) {
    size_t best = active_[0] == i ? active_[1] : active_[0];
    for (size_t n = 0; n < num_active_; ++n) {
      const size_t j = active_[n];
      best = j != i && At(i, j) < At(i, best) ? j : best;
    }
    nearest_[i] = static_cast<uint8_t>(best);
  }

  void Merge(size_t into, size_t gone) {
    RemoveActive(gone);
    const float apart = At(into, gone);
    const float size_into = sizes_[into];
    const float size_gone = sizes_[gone];
    for (size_t n = 0; n < num_active_; ++n) {
      const size_t other = active_[n];
      if (other != into) {  // Lance and Williams' recurrence
        const float size = sizes_[other];
        const float sum =
            (size_into + size) * At(into, other) + (size_gone + size) * At(gone, other);
        const float joined = (sum - size * apart) / (size_into + size_gone + size);
        At(into, other) = joined;
        At(other, into) = joined;
      }
    }
    sums_[into] += sums_[gone] + apart;
    sizes_[into] = static_cast<uint8_t>(sizes_[into] + sizes_[gone]);
    for (uint8_t& cluster : cluster_of_) {
      cluster = cluster == gone ? static_cast<uint8_t>(into) : cluster;
    }
    // By this measure two clusters that join come no nearer to any other.
    for (size_t n = 0; n < num_active_; ++n) {
      const size_t i = active_[n];
      if (i == into || nearest_[i] == into || nearest_[i] == gone) {
        FindNearest(i);
      }
    }
  }

  void RemoveActive(size_t cluster) {
    size_t kept = 0;
    for (size_t n = 0; n < num_active_; ++n) {
      if (active_[n] != cluster) {
        active_[kept++] = active_[n];
      }
    }
    num_active_ = kept;
  }

  std::span<float> distances_;
  std::array<uint8_t, kTokens> active_{};  // clusters, ascending
  size_t num_active_ = kTokens;
  std::array<uint8_t, kTokens> cluster_of_{};  // of a token
  std::array<uint8_t, kTokens> sizes_{};
  std::array<float, kTokens> sums_{};       // of squared distances to the mean
  std::array<uint8_t, kTokens> nearest_{};  // other cluster
};

}  // namespace

TokenClusters ClusterTokens(std::span<float> distances) {
  CHECK(distances.size() == kTokens * kTokens);
  WardClusters clusters(distances);
  for (int n = kClusteredTokens; n > kNumClusters; --n) {
    clusters.MergeNearest();
  }
  return clusters.Rows();
}

}  // namespace thermocline
