#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa/isa_table.h"

// The blocks that panels (panels.h) are made of: 32 columns of 16 rows.
//
//   nibble kinds  4 x 64 bytes: byte 4 r + e of vector j holds column 4 j + e of row r in its low
//                 and column 16 + 4 j + e in its high nibble
//   byte kinds    8 x 64 bytes: byte 4 r + e of vector j holds column 4 j + e of row r, unsigned
//   then          16 scales; 16 minima or, for Q6_K, the scales of columns 16..31: half, or float
//                 where the source multiplies two numbers to get them (Q4_K, Q5_K, Q6_K)
namespace thermocline {

// 32 columns of one row: unsigned codes and what scales them.
struct RowBlock {
  std::array<uint8_t, 32> codes{};
  uint16_t half_scale = 0;  // the source's own bits
  uint16_t half_minimum = 0;
  float scale = 0;   // for kinds whose scales are products
  float second = 0;  // the minimum, or Q6_K's scale of columns 16..31
};

bool IsFloatPanel(PanelKind kind);

// The size of one block of 16 rows x 32 columns, or of one column for float kinds.
size_t BlockBytes(PanelKind kind);

// The functions below are not for float kinds. `row` is 0..15 of the panel.

// Reads block `b` of the source's row that starts at `row`.
RowBlock ReadRowBlock(PanelKind kind, const uint8_t* row, int64_t b);

void PlaceRowBlock(PanelKind kind, const RowBlock& block, size_t row, uint8_t* out);
RowBlock TakeRowBlock(PanelKind kind, const uint8_t* block, size_t row);

// out [32], equal to what Dequantize makes of the source, bit for bit.
void DequantizeRowBlock(PanelKind kind, const RowBlock& block, float* out);

}  // namespace thermocline
