#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/page_cursor.cuh"

namespace thermocline {

// Where the parts of a warm chunk are in shared memory: two panels of K, the scales of K and V, and
// the tokens' group of each panel of V.
struct WarmChunk {
  int key_bytes;
  HD constexpr explicit WarmChunk(int head_dim) : key_bytes(2 * PanelBytes(8, head_dim)) {}
  HD constexpr int key_scales() const { return key_bytes; }
  HD constexpr int value_scales() const { return key_bytes + 64; }
  HD constexpr int values() const { return key_bytes + 128; }
};

// Begins the copy of a chunk into `stage`, which lies at `to`.
template <typename Thread>
HD void CopyChunk(Thread& x, const PageCursor& at, int head_dim, int stage, std::byte* to) {
  const auto dim = static_cast<uint32_t>(head_dim);
  const std::byte* block = at.block;
  if (at.codec == Codec::kNative) {  // 16 tokens of K, and of V
    x.BeginStage(stage, 64 * dim);
    x.CopyParts(stage, 2, to, 32 * dim, block + at.chunk * 32 * dim, 128 * dim, 32 * dim);
  } else if (at.codec == Codec::kInt8) {
    const WarmChunk chunk(head_dim);
    const BlockParts parts = BlockPartsOf(8, 8, 64, head_dim);
    const int num_panels = (head_dim + kPanelLanes - 1) / kPanelLanes;
    const auto key_bytes = static_cast<uint32_t>(chunk.key_bytes);
    x.BeginStage(stage, key_bytes + 128 + static_cast<uint32_t>(num_panels * GroupBytes(8)));
    x.CopyParts(stage, 1, to, 0, block + at.chunk * chunk.key_bytes, 0, key_bytes);
    x.CopyParts(stage, 2, to + chunk.key_scales(), 64, block + parts.key_scales + 64 * at.chunk,
                static_cast<uint32_t>(parts.value_scales - parts.key_scales), 64);
    x.CopyParts(stage, num_panels, to + chunk.values(), GroupBytes(8),
                block + parts.values + at.chunk * GroupBytes(8),
                static_cast<uint32_t>(parts.value_panel), GroupBytes(8));
  } else {
    const bool merged = IsMerged(at.codec);
    const int key_bits = at.codec == Codec::kTurboK4V3 ? 4 : at.codec == Codec::kMerged2 ? 2 : 3;
    const auto bytes = static_cast<uint32_t>(
        BlockPartsOf(key_bits, merged ? 2 : 3, merged ? 48 : 64, head_dim).bytes);
    x.BeginStage(stage, bytes);
    x.CopyParts(stage, 1, to, 0, block, 0, bytes);
  }
  x.CommitStage(stage);
}

}  // namespace thermocline
