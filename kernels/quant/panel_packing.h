#pragma once

#include <cstdint>

#include "kernels/core/panel_codes.h"

// Packs the codes of a whole block into panels and unpacks them, four inner codes (32 bits) at a
// time. The bytes are those of PackGroup. The loops go over 16 lanes, so that the compiler
// vectorises them.

namespace thermocline {

// Codes of vectors before they are packed: [num_tokens, dim], rows `stride` bytes apart, both
// dimensions padded with zeros to whole groups. One byte per code.
struct CodeMatrix {
  int num_tokens = 0;
  int dim = 0;

  static constexpr int Padded(int count) {
    return (count + kGroupInner - 1) / kGroupInner * kGroupInner;
  }
  int stride() const { return Padded(dim); }
  int bytes() const { return Padded(num_tokens) * stride(); }
};

// Which index is the lane of a panel; the other one is its inner index.
enum class PanelLane { kToken, kDimension };  // for K, for V

int PanelsBytes(const CodeMatrix& matrix, int bits, PanelLane lane);
void PackPanels(const CodeMatrix& matrix, int bits, PanelLane lane, const uint8_t* codes,
                uint8_t* packed);
void UnpackPanels(const CodeMatrix& matrix, int bits, PanelLane lane, const uint8_t* packed,
                  uint8_t* codes);

}  // namespace thermocline
