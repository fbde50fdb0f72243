#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace thermocline {

// Which tokens of a page share a row in the archive. Rows are in order of their first tokens.
inline constexpr int kClusteredTokens = 64;  // of a page; other pages are not merged
inline constexpr int kNumClusters = 48;

struct TokenClusters {
  std::array<uint8_t, kClusteredTokens> row_of{};
  std::array<uint8_t, kNumClusters> sizes{};
  std::array<float, kNumClusters> spreads{};  // mean squared distance to the cluster's mean
};

// Ward's method: what lies nearest goes together until kNumClusters are left, nearness being what
// the sum over tokens of the squared distance to their cluster's mean grows by. So a key that is
// like no other keeps a row of its own. `distances` [kClusteredTokens, kClusteredTokens] are
// squares and symmetric; they are overwritten. The same distances give the same clusters
// everywhere, ties going to the earlier token; with some that are not numbers the clusters are
// some.
TokenClusters ClusterTokens(std::span<float> distances);

}  // namespace thermocline
