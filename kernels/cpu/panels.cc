#include "kernels/cpu/panels.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/core/half.h"
#include "kernels/cpu/panel_blocks.h"

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

// One row of a panel of floats.
void ReadFloatRow(PanelKind kind, const uint8_t* panel, size_t row, size_t cols, float* out) {
  for (size_t c = 0; c < cols; ++c) {
    const size_t i = c * kPanelRows + row;
    if (kind == PanelKind::kF32) {
      std::memcpy(out + c, panel + 4 * i, 4);
    } else {
      uint16_t half = 0;
      std::memcpy(&half, panel + 2 * i, 2);
      out[c] = kind == PanelKind::kF16 ? HalfToFloat(half) : BFloat16ToFloat(half);
    }
  }
}

}  // namespace

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

void PanelWeight::ReadRow(int64_t row, float* out) const {
  CHECK(row >= 0 && row < rows_);
  size_t i = parts_.size() - 1;
  while (parts_[i].first_row > row) {
    --i;
  }
  const Part& part = parts_[i];
  const int64_t r = row - part.first_row;
  const uint8_t* source = panel(part, r / kPanelRows);
  const auto lane = static_cast<size_t>(r % kPanelRows);
  if (IsFloatPanel(part.kind)) {
    ReadFloatRow(part.kind, source, lane, static_cast<size_t>(cols_), out);
    return;
  }
  for (int64_t c = 0; c < cols_; c += kBlockColumns) {
    DequantizeRowBlock(part.kind, TakeRowBlock(part.kind, source, lane), out + c);
    source += BlockBytes(part.kind);
  }
}

}  // namespace thermocline
