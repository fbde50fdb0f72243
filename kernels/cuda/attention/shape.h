#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/panel_codes.h"
#include "kernels/cuda/launches.h"

// Sizes that the attention kernels and their launches agree on. Kernels are compiled for head sizes
// of 64, 128 and 256; others take the next larger one and are padded.

namespace thermocline {

inline constexpr int kAttentionThreads = 32 * kItemWarps;
inline constexpr int kStages = 2;  // of a warp's ring
inline constexpr float kLog2E = 1.44269504F;
// Below every score, and finite: what a row without tokens has for a maximum.
inline constexpr float kLowestScore = -1e30F;
inline constexpr float kMostQuerySteps = 127 * 256 + 127;
inline constexpr float kMostWeightSteps = 65534;

// The bytes of a panel of 16 keys. Codes are padded to 32 dimensions even where groups are smaller.
HD constexpr int KeyPanelBytes(int bits, int head_dim) {
  return PanelBytes(bits, (head_dim + kGroupInner - 1) / kGroupInner * kGroupInner);
}

// Where the parts of a coded block are: BlockLayoutOf, for kernels.
struct BlockParts {
  int key_panel = 0;  // bytes
  int value_panel = 0;
  int key_scales = 0;
  int values = 0;
  int value_scales = 0;
  int log_weights = 0;  // of merged blocks
  int bytes = 0;
};
HD constexpr BlockParts BlockPartsOf(int key_bits, int value_bits, int num_rows, int head_dim) {
  BlockParts parts;
  parts.key_panel = KeyPanelBytes(key_bits, head_dim);
  parts.value_panel = PanelBytes(value_bits, num_rows);
  const int key_bytes = num_rows / kPanelLanes * parts.key_panel;
  const int value_bytes = (head_dim + kPanelLanes - 1) / kPanelLanes * parts.value_panel;
  const int halves = 2 * num_rows;
  if (num_rows == 64) {
    parts.key_scales = key_bytes;
    parts.values = key_bytes + halves;
    parts.value_scales = parts.values + value_bytes;
    parts.bytes = parts.value_scales + halves;
  } else {
    parts.values = key_bytes;
    parts.key_scales = key_bytes + value_bytes;
    parts.value_scales = parts.key_scales + halves;
    parts.log_weights = parts.value_scales + halves;
    parts.bytes = (parts.log_weights + halves + 63) / 64 * 64;
  }
  return parts;
}

// A block's shared memory: barriers, the queries in four forms, each warp's ring.
template <int kDim>
struct AttentionMemory {
  static constexpr int kSteps = kDim / 32;     // of products of bytes
  static constexpr uint32_t kQueryRows = 128;  // float [kTileRows][kDim]
  static constexpr uint32_t kRowFacts = kQueryRows + kTileRows * kDim * 4;
  static constexpr uint32_t kByteQueries = kRowFacts + 128;  // of 8, 3 or 4, and 2 bits
  static constexpr uint32_t kByteQueriesOfOne = kSteps * 32 * 16;
  static constexpr uint32_t kHalfQueries = kByteQueries + 3 * kByteQueriesOfOne;
  static constexpr uint32_t kRings = kHalfQueries + kDim / 16 * 32 * 16;
  // 16 hot tokens are 64 kDim; 32 warm ones and their scales, and a page of K4V3, are more.
  static constexpr uint32_t kStageBytes =
      std::max(64 * kDim + 128, BlockPartsOf(4, 3, 64, kDim).bytes);
  static constexpr uint32_t kBytes = kRings + kItemWarps * kStages * kStageBytes;
};

}  // namespace thermocline
