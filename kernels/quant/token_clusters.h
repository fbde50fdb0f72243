#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace thermocline {

// Which tokens of a page share a row in the archive. Rows are in order of their first tokens.
inline constexpr int kClusteredTokens = 64;  // page size that can be merged; other pages are not
inline constexpr int kNumClusters = 48;

struct TokenClusters {
  std::array<uint8_t, kClusteredTokens> row_of{};
  std::array<uint8_t, kNumClusters> sizes{};
  std::array<float, kNumClusters> spreads{};  // mean squared distance to the cluster's mean
};

// Ward's method. The two nearest clusters are joined until kNumClusters are left. Two clusters are
// near if joining them adds little to the sum, over tokens, of the squared distance to their
// cluster's mean. So a key that is like no other keeps a row of its own. `distances`
// [kClusteredTokens, kClusteredTokens] are squares and symmetric; they are overwritten. Equal
// distances give equal clusters everywhere: ties go to the earlier token. If some distances are not
// numbers, the clusters are arbitrary but valid.
TokenClusters ClusterTokens(std::span<float> distances);

}  // namespace thermocline
