#include "kernels/cpu/panels.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/core/half.h"

namespace thermocline {
namespace {

PanelKind KindOf(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return PanelKind::kF32;
    case WeightType::kF16:
      return PanelKind::kF16;
    case WeightType::kBF16:
      return PanelKind::kBF16;
    case WeightType::kQ4_0:
      return PanelKind::kQ4_0;
    case WeightType::kQ4_1:
      return PanelKind::kQ4_1;
    case WeightType::kQ5_0:
      return PanelKind::kQ5_0;
    case WeightType::kQ5_1:
      return PanelKind::kQ5_1;
    case WeightType::kQ8_0:
      return PanelKind::kQ8_0;
    case WeightType::kQ4_K:
      return PanelKind::kQ4_K;
    case WeightType::kQ5_K:
      return PanelKind::kQ5_K;
    case WeightType::kQ6_K:
      return PanelKind::kQ6_K;
  }
  CHECK(false);
}

// Of one block of 16 rows x 32 columns, or of one column for float kinds.
size_t BlockBytes(PanelKind kind) {
  switch (kind) {
    case PanelKind::kQ4_0:
      return 256 + 32;
    case PanelKind::kQ4_1:
      return 256 + 64;
    case PanelKind::kQ5_0:
    case PanelKind::kQ8_0:
      return 512 + 32;
    case PanelKind::kQ5_1:
      return 512 + 64;
    case PanelKind::kQ4_K:
      return 256 + 128;
    case PanelKind::kQ5_K:
    case PanelKind::kQ6_K:
      return 512 + 128;
    case PanelKind::kF32:
      return 64;
    case PanelKind::kF16:
    case PanelKind::kBF16:
      return 32;
  }
  return 0;
}

// 32 columns of one row: unsigned codes and what scales them.
struct RowBlock {
  std::array<uint8_t, 32> codes{};
  uint16_t half_scale = 0;  // as the source stores them
  uint16_t half_minimum = 0;
  float scale = 0;   // for kinds whose scales are products
  float second = 0;  // the minimum, or Q6_K's scale of columns 16..31
};

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

// Block `b` of 32 columns of a row that starts at `row`.
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

bool HasNibbles(PanelKind kind) {
  return kind == PanelKind::kQ4_0 || kind == PanelKind::kQ4_1 || kind == PanelKind::kQ4_K;
}

bool HasFloatScales(PanelKind kind) {
  return kind == PanelKind::kQ4_K || kind == PanelKind::kQ5_K || kind == PanelKind::kQ6_K;
}

// Four columns of one row, a byte each.
uint32_t FourColumns(const RowBlock& block, size_t column) {
  uint32_t four = 0;
  std::memcpy(&four, block.codes.data() + column, sizeof(four));
  return four;
}

void PlaceRowBlock(PanelKind kind, const RowBlock& block, size_t row, uint8_t* out) {
  for (size_t vector = 0; vector < (HasNibbles(kind) ? 4U : 8U); ++vector) {
    uint32_t four = FourColumns(block, 4 * vector);
    if (HasNibbles(kind)) {
      four |= FourColumns(block, 16 + 4 * vector) << 4U;
    }
    std::memcpy(out + 64 * vector + 4 * row, &four, sizeof(four));
  }
  uint8_t* scales = out + (HasNibbles(kind) ? 256 : 512);
  if (HasFloatScales(kind)) {
    std::memcpy(scales + 4 * row, &block.scale, 4);
    std::memcpy(scales + 64 + 4 * row, &block.second, 4);
  } else {
    std::memcpy(scales + 2 * row, &block.half_scale, 2);
    if (kind == PanelKind::kQ4_1 || kind == PanelKind::kQ5_1) {
      std::memcpy(scales + 32 + 2 * row, &block.half_minimum, 2);
    }
  }
}

// One panel of zeroed memory from up to 16 rows of a source.
void PackPanel(const WeightSource& source, PanelKind kind, int64_t panel, uint8_t* out) {
  const int64_t first = panel * kPanelRows;
  const auto num_rows = static_cast<size_t>(std::min<int64_t>(kPanelRows, source.rows - first));
  for (size_t r = 0; r < num_rows; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(source.data) +
                      (static_cast<size_t>(first) + r) * source.row_bytes();
    if (IsFloatPanel(kind)) {
      const size_t element = kind == PanelKind::kF32 ? 4 : 2;
      for (size_t c = 0; c < static_cast<size_t>(source.cols); ++c) {
        std::memcpy(out + (c * kPanelRows + r) * element, row + c * element, element);
      }
      continue;
    }
    for (int64_t b = 0; b < source.cols / kBlockColumns; ++b) {
      PlaceRowBlock(kind, ReadRowBlock(kind, row, b), r,
                    out + static_cast<size_t>(b) * BlockBytes(kind));
    }
  }
}

}  // namespace

bool IsFloatPanel(PanelKind kind) {
  return kind == PanelKind::kF32 || kind == PanelKind::kF16 || kind == PanelKind::kBF16;
}

Result<std::unique_ptr<PanelWeight>> PanelWeight::Pack(std::span<const WeightSource> sources,
                                                       WeightSlabs& slabs, ThreadPool& pool) {
  CHECK(!sources.empty());
  auto weight = std::unique_ptr<PanelWeight>(new PanelWeight);  // NOLINT: private constructor
  weight->cols_ = sources[0].cols;
  size_t& num_bytes = weight->num_bytes_;
  for (const WeightSource& source : sources) {
    CHECK(source.cols == weight->cols_);
    const PanelKind kind = KindOf(source.type);
    const auto cols = static_cast<size_t>(source.cols);
    Part part{.kind = kind,
              .first_row = weight->rows_,
              .num_rows = source.rows,
              .first_panel = weight->parts_.empty() ? 0 : weight->num_panels(),
              .num_panels = (source.rows + kPanelRows - 1) / kPanelRows,
              .panel_bytes = BlockBytes(kind) * (IsFloatPanel(kind) ? cols : cols / kBlockColumns),
              .offset = num_bytes};
    num_bytes += static_cast<size_t>(part.num_panels) * part.panel_bytes;
    weight->rows_ += source.rows;
    weight->has_quantized_ |= !IsFloatPanel(kind);
    weight->parts_.push_back(part);
  }
  Result<WeightSlabs::Block> block = slabs.Allocate(num_bytes);
  if (!block.ok()) {
    return block.status();
  }
  weight->block_ = *std::move(block);
  auto* out = reinterpret_cast<uint8_t*>(weight->block_.data);
  for (size_t i = 0; i < sources.size(); ++i) {
    const Part& part = weight->parts_[i];
    pool.ParallelFor(part.num_panels, 4, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        PackPanel(sources[i], part.kind, p,
                  out + part.offset + static_cast<size_t>(p) * part.panel_bytes);
      }
    });
  }
  return weight;
}

}  // namespace thermocline
