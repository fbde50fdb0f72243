#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/half.h"
#include "kernels/core/panel_codes.h"
#include "kernels/cuda/moves/page_moves.h"

// Vectors of a page in a warp's shared memory, one a lane.

namespace thermocline {

// A coordinate of 32 vectors lies together, and a word apart from a multiple of 32, so that a warp
// reads or writes a coordinate of all its vectors, or 32 coordinates of one, in one go.
inline constexpr int kTileStride = kMoveTileRows + 1;

HD constexpr int TileColumns(int dim) { return (dim + 15) / 16 * 16; }
HD constexpr uint32_t TileFloats(int dim) {
  return static_cast<uint32_t>(TileColumns(dim) * kTileStride);
}

// One vector of a tile: of floats that lie kStride apart.
template <int kStride>
struct Column {
  float* first;

  HD float& operator[](int i) const { return first[i * kStride]; }
  HD Column operator+(int i) const { return {first + i * kStride}; }
};

// The values of one part, K or V, of a block that is not merged.
template <typename Thread>
class SourcePart {
 public:
  // `levels`: 16 floats of shared memory.
  HD SourcePart(const Thread& thread, const MoveBatch& of, Codec codec, bool keys,
                const std::byte* block, float* levels)
      : codes_(block + (keys ? 0 : of.tables.parts[static_cast<int>(codec)].v_codes)),
        levels_(levels),
        dim_(of.kv.layout.head_dim),
        keys_(keys),
        codec_(codec) {
    const BlockParts& parts = of.tables.parts[static_cast<int>(codec)];
    scales_ = block + (keys ? parts.k_scales : parts.v_scales);
    panel_bytes_ = keys ? parts.k_panel_bytes : parts.v_panel_bytes;
    if (codec == Codec::kTurbo3 || codec == Codec::kTurboK4V3) {
      const bool four_bits = keys && codec == Codec::kTurboK4V3;
      if (thread.lane() < 16) {
        levels[thread.lane()] = of.tables.books[four_bits ? 2 : 1].levels[thread.lane()];
      }
      thread.SyncWarp();
    }
  }

  // Calls visit(read), read(token, i) being coordinate i of a token. One instance for each codec.
  template <typename Visit>
  HD void Read(Visit visit) const {
    if (codec_ == Codec::kNative) {
      visit([this](int token, int i) {
        return Half(codes_ + 2 * (static_cast<int64_t>(token) * dim_ + i));
      });
    } else if (codec_ == Codec::kInt8) {
      visit([this](int token, int i) {
        return Scale(token) * static_cast<float>(static_cast<int8_t>(Code<8>(token, i)));
      });
    } else if (keys_ && codec_ == Codec::kTurboK4V3) {
      visit([this](int token, int i) { return Scale(token) * levels_[Code<4>(token, i)]; });
    } else {
      visit([this](int token, int i) { return Scale(token) * levels_[Code<3>(token, i)]; });
    }
  }

 private:
  HD static float Half(const std::byte* at) {
    return Thread::HalfBits(*reinterpret_cast<const uint16_t*>(at));
  }
  HD float Scale(int token) const { return Half(scales_ + 2 * token); }
  template <int kBits>
  HD uint8_t Code(int token, int i) const {
    const int lane = keys_ ? token : i;
    const int inner = keys_ ? i : token;
    const std::byte* group =
        codes_ + lane / kPanelLanes * panel_bytes_ + inner / GroupInner(kBits) * GroupBytes(kBits);
    return UnpackCode(kBits, reinterpret_cast<const uint8_t*>(group), lane % kPanelLanes,
                      inner % GroupInner(kBits));
  }

  const std::byte* codes_;
  const std::byte* scales_;
  float* levels_;
  int dim_;
  int panel_bytes_;
  bool keys_;
  Codec codec_;
};

}  // namespace thermocline
