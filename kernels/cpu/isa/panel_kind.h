#pragma once

#include <cstdint>

namespace thermocline {

// How 16 rows x 32 columns of a weight lie in memory; kernels/cpu/panel_blocks.h describes them.
enum class PanelKind : uint8_t {
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kF32,
  kF16,
  kBF16
};
inline constexpr int kNumPanelKinds = 11;

// What a block of a kind that is not of floats is made of, in this order: codes, scales, and minima
// or a second scale for each row's last 16 columns.
struct PanelShape {
  bool nibbles;       // two codes a byte, else one
  int zero;           // codes are unsigned; what they stand for is code - zero
  bool float_scales;  // else halves; minima likewise
  bool minima;
  bool two_scales;

  constexpr int code_bytes() const { return nibbles ? 256 : 512; }
  constexpr int scale_bytes() const { return float_scales ? 64 : 32; }
  constexpr int block_bytes() const {
    return code_bytes() + scale_bytes() * (minima || two_scales ? 2 : 1);
  }
};

constexpr PanelShape ShapeOf(PanelKind kind) {
  PanelShape shape{};
  shape.nibbles = kind == PanelKind::kQ4_0 || kind == PanelKind::kQ4_1 || kind == PanelKind::kQ4_K;
  shape.zero = kind == PanelKind::kQ4_0   ? 8
               : kind == PanelKind::kQ5_0 ? 16
               : kind == PanelKind::kQ6_K ? 32
               : kind == PanelKind::kQ8_0 ? 128
                                          : 0;
  shape.float_scales =
      kind == PanelKind::kQ4_K || kind == PanelKind::kQ5_K || kind == PanelKind::kQ6_K;
  shape.minima = kind == PanelKind::kQ4_1 || kind == PanelKind::kQ5_1 || kind == PanelKind::kQ4_K ||
                 kind == PanelKind::kQ5_K;
  shape.two_scales = kind == PanelKind::kQ6_K;
  return shape;
}

}  // namespace thermocline
