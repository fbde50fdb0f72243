#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/isa_table.h"
#include "kernels/cpu/weight_slabs.h"
#include "kernels/device.h"
#include "kernels/ops.h"

// "P16" panels: 16 output rows side by side, so that one vector holds the same columns of 16 rows
// and the 16 results of a token are one vector too. Columns go in the blocks of panel_blocks.h;
// float kinds are [columns][16 rows]. Rows past the matrix are zero. A panel of Q4_1 has exactly
// the source's size.

namespace thermocline {

// A weight as stacked panels of one or more sources. Each source starts a new panel and keeps its
// own kind.
class PanelWeight final : public Weight {
 public:
  struct Part {
    PanelKind kind;
    int64_t first_row;  // in the stacked matrix
    int64_t num_rows;
    int64_t first_panel;  // in the weight
    int64_t num_panels;
    size_t panel_bytes;
    size_t offset;  // into the block
  };

  // kResourceExhausted when there is no memory.
  static Result<std::unique_ptr<PanelWeight>> Pack(std::span<const WeightSource> sources,
                                                   WeightSlabs& slabs, ThreadPool& pool);

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t num_bytes() const override { return num_bytes_; }
  std::span<const Part> parts() const { return parts_; }
  int64_t num_panels() const { return parts_.back().first_panel + parts_.back().num_panels; }
  const uint8_t* panel(const Part& part, int64_t index) const {
    return reinterpret_cast<const uint8_t*>(block_.data) + part.offset +
           static_cast<size_t>(index) * part.panel_bytes;
  }
  // out [cols()] = row `row`, equal to Dequantize of its source bit for bit.
  void ReadRow(int64_t row, float* out) const;
  bool has_quantized() const { return has_quantized_; }

 private:
  PanelWeight() = default;

  int64_t rows_ = 0;
  int64_t cols_ = 0;
  bool has_quantized_ = false;
  std::vector<Part> parts_;
  size_t num_bytes_ = 0;
  WeightSlabs::Block block_;
};

}  // namespace thermocline
