#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/attention/rotate_rows.cuh"
#include "kernels/cuda/attention/shape.h"

namespace thermocline {

// A block adds up the states of a tile's items in order, gives every row its sink, turns outputs
// back and folds page energies.
template <typename Thread>
class AttentionMerge {
 public:
  static constexpr uint32_t SharedBytes(int head_dim) {
    return 128 + kTileRows * static_cast<uint32_t>(head_dim) * 4;
  }

  HD AttentionMerge(Thread& thread, const AttentionLaunch& of)
      : x_(thread),
        of_(of),
        tile_(of.tiles[thread.block()]),
        log_sums_(thread.template shared<float>(0)),
        rows_(thread.template shared<float>(128)) {}

  HD void Run() {
    for (int i = x_.thread(); i < kTileRows * of_.head_dim; i += x_.num_threads()) {
      MergeItems(i / of_.head_dim, i % of_.head_dim);
    }
    x_.SyncThreads();
    if (of_.signs != nullptr) {
      RotateRows(x_, rows_, kTileRows, of_.head_dim, of_.head_dim, of_.signs);
    }
    for (int i = x_.thread(); i < tile_.num_rows * of_.head_dim; i += x_.num_threads()) {
      of_.out[HeadOf(i / of_.head_dim) * of_.head_dim + i % of_.head_dim] = rows_[i];
    }
    if (of_.log_sums != nullptr && x_.thread() < tile_.num_rows) {
      of_.log_sums[HeadOf(x_.thread())] = log_sums_[x_.thread()];
    }
    if (of_.page_energy != nullptr && tile_.first_observed < tile_.num_rows) {
      for (int page = x_.thread(); page < tile_.num_pages; page += x_.num_threads()) {
        FoldEnergy(page);
      }
    }
  }

 private:
  // The index of a row of the tile in [num_tokens, num_heads].
  HD int64_t HeadOf(int row) const {
    const int of_head = tile_.first_row + row;
    return int64_t{tile_.first_token + of_head / of_.group} * of_.num_heads + Head(row);
  }
  HD int Head(int row) const {
    return tile_.kv_head * of_.group + (tile_.first_row + row) % of_.group;
  }

  HD void MergeItems(int row, int dim) {
    const int stride = of_.head_dim + 2;
    const float* state = of_.states + (int64_t{tile_.first_state} * kTileRows + row) * stride;
    const bool has_sink = of_.sinks != nullptr && row < tile_.num_rows;
    const float sink = has_sink ? of_.sinks[Head(row)] * kLog2E : kLowestScore;
    float max = sink;
    for (int item = 0; item < tile_.num_items; ++item) {
      max = fmaxf(max, state[int64_t{item} * kTileRows * stride + of_.head_dim]);
    }
    float sum = has_sink ? Thread::Exp2(sink - max) : 0.0F;
    float out = 0;
    for (int item = 0; item < tile_.num_items; ++item) {
      const float* of_item = state + int64_t{item} * kTileRows * stride;
      const float weight = Thread::Exp2(of_item[of_.head_dim] - max);
      sum = Thread::Fma(of_item[of_.head_dim + 1], weight, sum);
      out = Thread::Fma(of_item[dim], weight, out);
    }
    rows_[row * of_.head_dim + dim] = sum > 0 ? Thread::DivideExactly(out, sum) : 0.0F;
    if (dim == 0) {
      log_sums_[row] = max + Thread::Log2(sum);
    }
  }

  // The greatest of the rows', and of other tiles' of the same head: numbers above zero are ordered
  // as their bits are.
  HD void FoldEnergy(int page) {
    const float* logs = of_.log_energy + tile_.first_energy + int64_t{page} * kTileRows;
    float energy = 0;
    for (int row = tile_.first_observed; row < tile_.num_rows; ++row) {
      energy = fmaxf(energy, Thread::Exp2(logs[row] - 2 * log_sums_[row]));
    }
    const int num_kv_heads = of_.num_heads / of_.group;
    float* to = of_.page_energy + int64_t{tile_.first_page + page} * num_kv_heads + tile_.kv_head;
    x_.AtomicMax(reinterpret_cast<uint32_t*>(to), Thread::Bits(energy));
  }

  Thread& x_;
  const AttentionLaunch& of_;
  const AttentionTile& tile_;
  float* log_sums_;
  float* rows_;
};

}  // namespace thermocline
