#include "kernels/cpu/panel_blocks.h"

#include <cstring>

#include "kernels/base/check.h"
#include "kernels/core/half.h"
#include "kernels/quant/weight_blocks.h"

namespace thermocline {
namespace {

uint16_t Load16(const uint8_t* src) {
  uint16_t value = 0;
  std::memcpy(&value, src, sizeof(value));
  return value;
}

// Q4_0, Q4_1, Q5_0, Q5_1: [d][m][high bits][nibbles].
void ReadLegacyBlock(const uint8_t* block, bool minimum, bool five_bits, RowBlock& out) {
  out.half_scale = Load16(block);
  block += 2;
  if (minimum) {
    out.half_minimum = Load16(block);
    block += 2;
  }
  uint32_t high = 0;
  if (five_bits) {
    std::memcpy(&high, block, sizeof(high));
    block += 4;
  }
  for (uint32_t i = 0; i < 16; ++i) {
    out.codes[i] = static_cast<uint8_t>((block[i] & 15U) | (high >> i & 1U) << 4);
    out.codes[i + 16] = static_cast<uint8_t>(block[i] >> 4U | (high >> (i + 16) & 1U) << 4);
  }
}

void ReadQ8Block(const uint8_t* block, RowBlock& out) {
  out.half_scale = Load16(block);
  for (size_t i = 0; i < 32; ++i) {
    out.codes[i] = static_cast<uint8_t>(block[2 + i] + 128U);  // wraps: int8 -> offset binary
  }
}

// Sub-block s of a Q4_K or Q5_K block.
void ReadKBlock(const uint8_t* block, int s, bool five_bits, RowBlock& out) {
  const KQuantScale pair = UnpackKQuantScale(reinterpret_cast<const std::byte*>(block + 4), s);
  out.scale = HalfToFloat(Load16(block)) * static_cast<float>(pair.scale);
  out.second = -(HalfToFloat(Load16(block + 2)) * static_cast<float>(pair.min));
  const uint8_t* nibbles = block + (five_bits ? 48 : 16) + 32 * (s / 2);
  for (size_t i = 0; i < 32; ++i) {
    const unsigned nibble = s % 2 == 0 ? nibbles[i] & 15U : nibbles[i] >> 4U;
    const unsigned high = five_bits ? (block[16 + i] >> s & 1U) << 4 : 0U;
    out.codes[i] = static_cast<uint8_t>(nibble | high);
  }
}

// Columns [32 s, 32 s + 32) of a Q6_K block.
void ReadQ6KBlock(const uint8_t* block, int s, RowBlock& out) {
  const int half = s / 4;
  const int group = s % 4;
  const uint8_t* low = block + 64 * half + 32 * (group % 2);
  const uint8_t* high = block + 128 + 32 * half;
  const uint8_t* scales = block + 192 + 8 * half + 2 * group;
  const float d = HalfToFloat(Load16(block + 208));
  out.scale = d * static_cast<float>(static_cast<int8_t>(scales[0]));
  out.second = d * static_cast<float>(static_cast<int8_t>(scales[1]));
  for (size_t i = 0; i < 32; ++i) {
    const unsigned nibble = group < 2 ? low[i] & 15U : low[i] >> 4U;
    out.codes[i] = static_cast<uint8_t>(nibble | (high[i] >> 2 * group & 3U) << 4);
  }
}

// Four columns of one row, a byte each.
uint32_t FourColumns(const RowBlock& block, size_t column) {
  uint32_t four = 0;
  std::memcpy(&four, block.codes.data() + column, sizeof(four));
  return four;
}

}  // namespace

bool IsFloatPanel(PanelKind kind) {
  return kind == PanelKind::kF32 || kind == PanelKind::kF16 || kind == PanelKind::kBF16;
}

size_t BlockBytes(PanelKind kind) {
  if (IsFloatPanel(kind)) {
    return kind == PanelKind::kF32 ? 64 : 32;
  }
  return static_cast<size_t>(ShapeOf(kind).block_bytes());
}

RowBlock ReadRowBlock(PanelKind kind, const uint8_t* row, int64_t b) {
  RowBlock out;
  switch (kind) {
    case PanelKind::kQ4_0:
      ReadLegacyBlock(row + 18 * b, false, false, out);
      break;
    case PanelKind::kQ4_1:
      ReadLegacyBlock(row + 20 * b, true, false, out);
      break;
    case PanelKind::kQ5_0:
      ReadLegacyBlock(row + 22 * b, false, true, out);
      break;
    case PanelKind::kQ5_1:
      ReadLegacyBlock(row + 24 * b, true, true, out);
      break;
    case PanelKind::kQ8_0:
      ReadQ8Block(row + 34 * b, out);
      break;
    case PanelKind::kQ4_K:
      ReadKBlock(row + 144 * (b / 8), static_cast<int>(b % 8), false, out);
      break;
    case PanelKind::kQ5_K:
      ReadKBlock(row + 176 * (b / 8), static_cast<int>(b % 8), true, out);
      break;
    case PanelKind::kQ6_K:
      ReadQ6KBlock(row + 210 * (b / 8), static_cast<int>(b % 8), out);
      break;
    case PanelKind::kF32:
    case PanelKind::kF16:
    case PanelKind::kBF16:
      CHECK(false);
  }
  return out;
}

void PlaceRowBlock(PanelKind kind, const RowBlock& block, size_t row, uint8_t* out) {
  const PanelShape shape = ShapeOf(kind);
  for (size_t vector = 0; vector < (shape.nibbles ? 4U : 8U); ++vector) {
    uint32_t four = FourColumns(block, 4 * vector);
    if (shape.nibbles) {
      four |= FourColumns(block, 16 + 4 * vector) << 4U;
    }
    std::memcpy(out + 64 * vector + 4 * row, &four, sizeof(four));
  }
  uint8_t* scales = out + shape.code_bytes();
  uint8_t* seconds = scales + shape.scale_bytes();
  if (shape.float_scales) {
    std::memcpy(scales + 4 * row, &block.scale, 4);
    std::memcpy(seconds + 4 * row, &block.second, 4);
    return;
  }
  std::memcpy(scales + 2 * row, &block.half_scale, 2);
  if (shape.minima) {
    std::memcpy(seconds + 2 * row, &block.half_minimum, 2);
  }
}

RowBlock TakeRowBlock(PanelKind kind, const uint8_t* block, size_t row) {
  const PanelShape shape = ShapeOf(kind);
  RowBlock out;
  for (size_t vector = 0; vector < (shape.nibbles ? 4U : 8U); ++vector) {
    const uint8_t* four = block + 64 * vector + 4 * row;
    for (size_t e = 0; e < 4; ++e) {
      if (shape.nibbles) {
        out.codes[4 * vector + e] = four[e] & 15U;
        out.codes[16 + 4 * vector + e] = four[e] >> 4U;
      } else {
        out.codes[4 * vector + e] = four[e];
      }
    }
  }
  const uint8_t* scales = block + shape.code_bytes();
  const uint8_t* seconds = scales + shape.scale_bytes();
  if (shape.float_scales) {
    std::memcpy(&out.scale, scales + 4 * row, 4);
    std::memcpy(&out.second, seconds + 4 * row, 4);
  } else {
    out.half_scale = Load16(scales + 2 * row);
    out.half_minimum = shape.minima ? Load16(seconds + 2 * row) : uint16_t{0};
  }
  return out;
}

void DequantizeRowBlock(PanelKind kind, const RowBlock& block, float* out) {
  const PanelShape shape = ShapeOf(kind);
  const float scale = shape.float_scales ? block.scale : HalfToFloat(block.half_scale);
  const float scales[2] = {scale, shape.two_scales ? block.second : scale};
  const float minimum = shape.float_scales ? block.second : HalfToFloat(block.half_minimum);
  for (size_t i = 0; i < block.codes.size(); ++i) {
    const float value = scales[i / 16] * static_cast<float>(block.codes[i] - shape.zero);
    out[i] = shape.minima ? value + minimum : value;
  }
}

}  // namespace thermocline
