#include "kernels/quant/token_clusters.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr size_t kTokens = kClusteredTokens;
constexpr size_t kNone = kTokens;
constexpr float kFar = std::numeric_limits<float>::infinity();

using Row = std::span<const float, kTokens>;

// The index of the least element, the first if several are; kNone when none is finite.
size_t IndexOfLeast(Row x) {
  std::array<float, 16> least;
  least.fill(kFar);
  for (size_t i = 0; i < kTokens; i += least.size()) {
    for (size_t lane = 0; lane < least.size(); ++lane) {
      least[lane] = x[i + lane] < least[lane] ? x[i + lane] : least[lane];
    }
  }
  const float of_all = *std::min_element(least.begin(), least.end());
  return of_all < kFar ? static_cast<size_t>(std::find(x.begin(), x.end(), of_all) - x.begin())
                       : kNone;
}

// Clusters are known by their first token. Distances to a cluster that is gone, and to itself, are
// kFar.
class WardClusters {
 public:
  explicit WardClusters(std::span<float> distances) : distances_(distances) {
    sizes_.fill(1);
    for (float& distance : distances_) {
      distance *= 0.5F;  // joining two single tokens adds this to the sum
    }
    for (size_t i = 0; i < kTokens; ++i) {
      cluster_of_[i] = static_cast<uint8_t>(i);
      At(i, i) = kFar;
    }
    for (size_t i = 0; i < kTokens; ++i) {
      FindNearest(i);
    }
  }

  void MergeNearest() {
    size_t first = IndexOfLeast(nearest_distances_);
    size_t second = first == kNone ? kNone : nearest_[first];
    if (first == kNone) {  // no distance is a number: any two
      first = NextCluster(0);
      second = NextCluster(first + 1);
    }
    first < second ? Merge(first, second) : Merge(second, first);
  }

  TokenClusters Rows() const {
    TokenClusters clusters;
    std::array<uint8_t, kTokens> rows{};
    size_t row = 0;
    for (size_t i = NextCluster(0); i < kTokens; i = NextCluster(i + 1), ++row) {
      rows[i] = static_cast<uint8_t>(row);
      clusters.sizes[row] = sizes_[i];
      clusters.spreads[row] = sums_[i] / static_cast<float>(sizes_[i]);
    }
    CHECK(row == kNumClusters);
    for (size_t i = 0; i < kTokens; ++i) {
      clusters.row_of[i] = rows[cluster_of_[i]];
    }
    return clusters;
  }

 private:
  float& At(size_t i, size_t j) { return distances_[i * kTokens + j]; }

  // The first cluster from i on.
  size_t NextCluster(size_t i) const {
    while (i < kTokens && sizes_[i] == 0) {
      ++i;
    }
    return i;
  }

  void FindNearest(size_t i) {
    const size_t nearest = IndexOfLeast(Row(&At(i, 0), kTokens));
    nearest_[i] = static_cast<uint8_t>(nearest);
    nearest_distances_[i] = nearest == kNone ? kFar : At(i, nearest);
  }

  void Merge(size_t into, size_t gone) {
    const float apart = At(into, gone);
    const float size_into = sizes_[into];
    const float size_gone = sizes_[gone];
    sums_[into] += sums_[gone] + apart;
    sizes_[into] = static_cast<uint8_t>(sizes_[into] + sizes_[gone]);
    sizes_[gone] = 0;
    nearest_distances_[gone] = kFar;
    for (size_t i = 0; i < kTokens; ++i) {
      cluster_of_[i] = cluster_of_[i] == gone ? static_cast<uint8_t>(into) : cluster_of_[i];
      if (sizes_[i] > 0 && i != into) {  // Lance and Williams' recurrence
        const float size = sizes_[i];
        const float sum = (size_into + size) * At(into, i) + (size_gone + size) * At(gone, i);
        const float joined = (sum - size * apart) / (size_into + size_gone + size);
        At(into, i) = joined;
        At(i, into) = joined;
      }
      At(i, gone) = kFar;
    }
    // With Ward's measure two clusters that join come no nearer to any other.
    for (size_t i = 0; i < kTokens; ++i) {
      if (sizes_[i] > 0 && (i == into || nearest_[i] == into || nearest_[i] == gone)) {
        FindNearest(i);
      }
    }
  }

  std::span<float> distances_;
  std::array<uint8_t, kTokens> cluster_of_{};  // each token's cluster
  std::array<uint8_t, kTokens> sizes_{};       // 0: the cluster is gone
  std::array<float, kTokens> sums_{};          // sum of squared distances to the cluster's mean
  std::array<uint8_t, kTokens> nearest_{};     // other cluster, or kNone
  std::array<float, kTokens> nearest_distances_{};
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
