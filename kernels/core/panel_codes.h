#pragma once

#include <cstdint>

#include "kernels/base/hd.h"

// Where the codes of a coded page lie. K and V of one layer and KV head are cut into panels of 16
// lanes: a lane is a token for K and a dimension for V, and the other index is the panel's inner
// one. A group is 16 lanes x 32 inner codes, of 2 bits 16 lanes x 16, and groups of one panel
// follow each other.
//
// A group is rows of 64 bytes; byte 4 * lane + e of a row belongs to `lane`, so a 32-bit lane of a
// vector register holds four neighbouring inner codes of each half.
//   8 bits: row r holds inner 4 r + e as two's complement.              8 rows, 512 bytes
//   4 bits: row r holds inner 8 r + e (low nibble), 8 r + 4 + e (high). 4 rows, 256 bytes
//   3 bits: row r < 3 holds inner 8 r + e in bits 0-2 and 8 r + 4 + e in bits 3-5. Inner 24 + e and
//           28 + e make six bits of a row of their own, which lie two by two in bits 6-7 of the
//           rows 0, 1 and 2.                                            3 rows, 192 bytes
//   2 bits: inner 4 i + e in bits 2 i and 2 i + 1.                      1 row, 64 bytes
// So one shift brings any code to the low bits of its lane, where a table lookup that reads three
// (or four) bits needs no mask; and the bytes are those that 8-bit dot products want.

namespace thermocline {

inline constexpr int kPanelLanes = 16;
inline constexpr int kGroupInner = 32;  // inner codes of a group, unless codes have 2 bits
inline constexpr int kGroupRowBytes = 64;

HD constexpr int GroupInner(int bits) { return bits == 2 ? 16 : kGroupInner; }
HD constexpr int GroupBytes(int bits) { return kPanelLanes * GroupInner(bits) * bits / 8; }

// The size of a panel of `num_inner` codes per lane, rounded up to whole groups.
HD constexpr int PanelBytes(int bits, int num_inner) {
  return (num_inner + GroupInner(bits) - 1) / GroupInner(bits) * GroupBytes(bits);
}

// Where a code begins in its group: a byte, and a shift inside it. With 3 bits row 3 does not
// exist: its codes are in bits 6-7 of the others, see above.
struct CodePlace {
  int byte = 0;
  int shift = 0;
};
HD constexpr CodePlace PlaceInGroup(int bits, int lane, int inner) {
  const int e = inner % 4;
  if (bits == 8) {
    return {kGroupRowBytes * (inner / 4) + 4 * lane + e, 0};
  }
  if (bits == 2) {
    return {4 * lane + e, 2 * (inner / 4)};
  }
  const int row = inner / 8;
  const bool high = inner % 8 >= 4;
  return {kGroupRowBytes * row + 4 * lane + e, high ? bits : 0};
}

// Packs one group. `codes` [GroupInner(bits)][16]: inner, then lane.
HD constexpr void PackGroup(int bits, const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < GroupBytes(bits); ++i) {
    out[i] = 0;
  }
  for (int inner = 0; inner < GroupInner(bits); ++inner) {
    for (int lane = 0; lane < kPanelLanes; ++lane) {
      const CodePlace place = PlaceInGroup(bits, lane, inner);
      const uint32_t code = codes[inner * kPanelLanes + lane];
      if (bits == 3 && inner >= 24) {
        const uint32_t six = code << place.shift;
        for (int row = 0; row < 3; ++row) {
          uint8_t& byte = out[kGroupRowBytes * row + place.byte - 3 * kGroupRowBytes];
          byte = static_cast<uint8_t>(byte | (six >> 2 * row & 3U) << 6);
        }
      } else {
        out[place.byte] = static_cast<uint8_t>(out[place.byte] | code << place.shift);
      }
    }
  }
}

// One code of a packed group, as it was packed.
HD constexpr uint8_t UnpackCode(int bits, const uint8_t* group, int lane, int inner) {
  const CodePlace place = PlaceInGroup(bits, lane, inner);
  const uint32_t mask = (1U << bits) - 1;
  if (bits == 3 && inner >= 24) {
    uint32_t six = 0;
    for (int row = 0; row < 3; ++row) {
      const uint32_t byte = group[kGroupRowBytes * row + place.byte - 3 * kGroupRowBytes];
      six |= (byte >> 6) << 2 * row;
    }
    return static_cast<uint8_t>(six >> place.shift & mask);
  }
  return static_cast<uint8_t>(uint32_t{group[place.byte]} >> place.shift & mask);
}

// Whether each code of a group has bits of its own, whatever its neighbours are: what is packed
// comes out again, for a pattern that differs in neighbouring bytes, rows and halves.
constexpr bool GroupIsBijective(int bits) {
  uint8_t codes[kGroupInner * kPanelLanes] = {};
  uint8_t packed[kPanelLanes * kGroupInner] = {};
  uint32_t state = 1;
  for (uint8_t& code : codes) {
    state = state * 1664525U + 1013904223U;
    code = static_cast<uint8_t>(state >> 20 & ((1U << bits) - 1));
  }
  PackGroup(bits, codes, packed);
  for (int inner = 0; inner < GroupInner(bits); ++inner) {
    for (int lane = 0; lane < kPanelLanes; ++lane) {
      if (UnpackCode(bits, packed, lane, inner) != codes[inner * kPanelLanes + lane]) {
        return false;
      }
    }
  }
  return true;
}
static_assert(GroupIsBijective(2) && GroupIsBijective(3) && GroupIsBijective(4) &&
              GroupIsBijective(8));

}  // namespace thermocline
