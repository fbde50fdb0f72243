#pragma once

#include <cstdint>

#include "kernels/base/hd.h"

namespace thermocline {

enum class RopeStyle { kInterleaved, kHalves };  // pairs (2i, 2i+1), or (i, i + D/2)

// The indices in a head of the two elements of a rotated pair.
struct RopePair {
  int32_t first = 0;
  int32_t second = 0;
};
HD constexpr RopePair RopePairOf(RopeStyle style, int32_t num_pairs, int32_t pair) {
  return style == RopeStyle::kInterleaved ? RopePair{2 * pair, 2 * pair + 1}
                                          : RopePair{pair, pair + num_pairs};
}

}  // namespace thermocline
