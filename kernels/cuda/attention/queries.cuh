#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/rotate_rows.cuh"
#include "kernels/cuda/attention/shape.h"

namespace thermocline {

// What scores of a row are made of beside its products; each in log2.
struct RowFacts {
  float size;       // what a query of 1 is worth: queries are divided by their largest number
  float mean;       // <q, mean key>, of coded pages
  float bias_size;  // what a turned product of 1 is worth
  float inverse_bias_size;
};

// The dimension of byte e of register b of the operands of a step: section 2 of the index maps,
// docs/cuda.md. A lane is 4 g + t.
template <int kDim>
HD constexpr int DimOfByte(int key_bits, int step, int t, int b, int e) {
  const int i = 2 * b + e / 2;
  const int h = e % 2;
  if (key_bits == 8) {
    return 32 * step + 16 * b + 4 * t + e;
  }
  if (key_bits == 2) {
    return 16 * (t + 4 * (step / 2)) + 4 * (step % 2 + 2 * h) + i;
  }
  return kDim >= 128 ? 32 * (t + 4 * (step / 4)) + 8 * (step % 4) + 4 * h + i
                     : 32 * (t / 2) + 8 * (step + 2 * h) + 4 * (t % 2) + i;
}
// The same for halves, of which a lane loads eight neighbours at a time.
HD constexpr int DimOfHalf(int step, int t, int b, int e) {
  return 32 * (step / 2) + 8 * t + 4 * (step % 2) + 2 * b + e;
}

// Fills the queries' part of AttentionMemory for a tile. All threads of a block call it;
// SyncThreads comes before and after.
template <typename Thread, int kDim>
class QueryLoader {
 public:
  HD QueryLoader(Thread& thread, const AttentionLaunch& of, const AttentionTile& tile)
      : x_(thread),
        of_(of),
        tile_(tile),
        rows_(thread.template shared<float>(Memory::kQueryRows)),
        facts_(thread.template shared<RowFacts>(Memory::kRowFacts)) {}

  HD void Run() {
    for (int row = x_.warp(); row < kTileRows; row += kItemWarps) {
      LoadRow(row);
    }
    x_.SyncThreads();
    for (int at = x_.thread(); at < 3 * kSteps * 32; at += kAttentionThreads) {
      StoreBytes(at / (kSteps * 32), at / 32 % kSteps, at % 32);
    }
    for (int at = x_.thread(); at < kDim / 16 * 32; at += kAttentionThreads) {
      StoreHalves(at / 32, at % 32);
    }
    if (of_.bias.angles != nullptr) {
      x_.SyncThreads();
      RotateRows(x_, rows_, kTileRows, kDim, of_.head_dim, of_.bias.signs);
      for (int row = x_.warp(); row < kTileRows; row += kItemWarps) {
        BoundTurnedProducts(row);
      }
    }
  }

 private:
  using Memory = AttentionMemory<kDim>;
  static constexpr int kSteps = Memory::kSteps;

  HD float Sum(float x) const {
    for (int mask = 16; mask > 0; mask /= 2) {
      x += x_.ShuffleXor(x, mask);
    }
    return x;
  }
  HD float Largest(float x) const {
    for (int mask = 16; mask > 0; mask /= 2) {
      x = fmaxf(x, x_.ShuffleXor(x, mask));
    }
    return x;
  }

  // Divided by its largest number. Rows and dimensions that there are none of are zero.
  HD void LoadRow(int row) {
    const int of_head = tile_.first_row + row;
    const int64_t token = tile_.first_token + of_head / of_.group;
    const int head = tile_.kv_head * of_.group + of_head % of_.group;
    const float* q = of_.q + token * of_.row_width + int64_t{head} * of_.head_dim;
    const float* mean_key =
        of_.mean_keys == nullptr ? nullptr : of_.mean_keys + int64_t{tile_.kv_head} * of_.head_dim;
    float values[kDim / 32];
    float largest = 0;
    float mean = 0;
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      const int dim = x_.lane() + 32 * i;
      const bool is_there = row < tile_.num_rows && dim < of_.head_dim;
      values[i] = is_there ? q[dim] : 0.0F;
      largest = fmaxf(largest, fabsf(values[i]));
      if (is_there && mean_key != nullptr) {
        mean = Thread::Fma(values[i], mean_key[dim], mean);
      }
    }
    largest = Largest(largest);
    mean = Sum(mean);
    const float inverse = largest > 0 ? Thread::DivideExactly(1.0F, largest) : 0.0F;
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      rows_[row * kDim + x_.lane() + 32 * i] = values[i] * inverse;
    }
    if (x_.lane() == 0) {
      const float log_scale = of_.scale * kLog2E;
      facts_[row] = {largest * log_scale, mean * log_scale, 0, 0};
    }
  }

  // Sixteen bits as two bytes: the high ones are row g of a product, the low ones row g + 8.
  HD void StoreBytes(int form, int step, int lane) {
    const int key_bits = form == 0 ? 8 : form == 1 ? 3 : 2;
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float q =
          rows_[lane / 4 * kDim + DimOfByte<kDim>(key_bits, step, lane % 4, i / 4, i % 4)];
      const auto whole = static_cast<int32_t>(Thread::RoundToWhole(q * kMostQuerySteps));
      const auto high = static_cast<uint32_t>(whole + 128) >> 8 & 0xffU;
      const auto low = static_cast<uint32_t>(whole) & 0xffU;  // has a sign
      words[i / 4 * 2] |= high << 8 * (i % 4);
      words[i / 4 * 2 + 1] |= low << 8 * (i % 4);
    }
    x_.Store16(
        x_.template shared<std::byte>(Memory::kByteQueries + form * Memory::kByteQueriesOfOne) +
            (step * 32 + lane) * 16,
        {{words[0], words[1], words[2], words[3]}});
  }

  // Two halves whose sum is the query.
  HD void StoreHalves(int step, int lane) {
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float q = rows_[lane / 4 * kDim + DimOfHalf(step, lane % 4, i / 2, i % 2)];
      const uint32_t high = Thread::HalfOf(q);
      words[i / 2 * 2] |= high << 16 * (i % 2);
      words[i / 2 * 2 + 1] |= Thread::HalfOf(q - Thread::HalfBits(high)) << 16 * (i % 2);
    }
    x_.Store16(x_.template shared<std::byte>(Memory::kHalfQueries) + (step * 32 + lane) * 16,
               {{words[0], words[1], words[2], words[3]}});
  }

  // Rows are in the basis of the bias now. No product of a pair and a turned bias is larger.
  HD void BoundTurnedProducts(int row) {
    const AttentionBias& bias = of_.bias;
    const float* real = bias.biases + int64_t{tile_.kv_head} * 2 * bias.num_pairs;
    const float* q = rows_ + row * kDim;
    float largest = 0;
    for (int i = x_.lane(); i < bias.num_pairs; i += 32) {
      const float pair = fabsf(q[bias.elements[i]]) + fabsf(q[bias.elements[bias.num_pairs + i]]);
      const float turned = fabsf(real[i]) + fabsf(real[bias.num_pairs + i]);
      // Page 0 is turned by nothing: its cosines are RoPE's magnitude.
      largest = fmaxf(largest, pair * turned * fabsf(bias.page_angles[i]));
    }
    largest = Largest(largest);
    if (x_.lane() == 0) {
      facts_[row].bias_size = facts_[row].size * largest;
      facts_[row].inverse_bias_size = largest > 0 ? Thread::DivideExactly(1.0F, largest) : 0.0F;
    }
  }

  Thread& x_;
  const AttentionLaunch& of_;
  const AttentionTile& tile_;
  float* rows_;
  RowFacts* facts_;
};

}  // namespace thermocline
