#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/key_rounding.h"
#include "kernels/core/quantize.h"
#include "kernels/cuda/moves/quantize_rows.cuh"

// QuantizeKey and the transform of MeasureKeyDistances, a lane a key. All lanes read the same
// factors.

namespace thermocline {

// The query factors of a head, [dim, dim], four neighbours of a row at a time: dim is a multiple of
// four.
template <typename Thread>
class FactorRows {
 public:
  HD FactorRows(const Thread& thread, const float* factors, int dim)
      : thread_(thread), factors_(factors), dim_(dim) {}

  struct Four {
    float x[4];
  };
  HD Four Load(int row, int first) const {
    const auto words = thread_.LoadGlobal16(factors_ + static_cast<int64_t>(row) * dim_ + first);
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      four.x[i] = Thread::FloatOfBits(words.w[i]);
    }
    return four;
  }
  HD float diagonal(int row) const { return factors_[static_cast<int64_t>(row) * dim_ + row]; }
  HD int dim() const { return dim_; }

 private:
  const Thread& thread_;
  const float* factors_;
  int dim_;
};

// Calls store(v, i, x[v][i] + sum over j > i of U_ij x[v][j]) for each coordinate from the first
// on; kVectors columns and eight rows at a time share what is read. `store` may write to x[v][i]: a
// coordinate takes from later ones alone. Columns behind `dim` are zeros.
template <typename Thread, int kVectors, int kStride, typename Store>
HD void TransformKeys(const FactorRows<Thread>& factors, const Column<kStride> (&x)[kVectors],
                      Store store) {
  constexpr int kRows = 8;
  const int dim = factors.dim();
  for (int first = 0; first < dim; first += kRows) {
    float sums[kVectors][kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = first + r < dim ? first + r : dim - 1;
#pragma unroll
      for (int part = 0; part < kRows; part += 4) {
        if (first + part >= dim) {
          continue;
        }
        const auto four = factors.Load(row, first + part);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          for (int v = 0; v < kVectors && part + i > r; ++v) {
            sums[v][r] += four.x[i] * x[v][first + part + i];
          }
        }
      }
    }
    for (int behind = first + kRows; behind < dim; behind += 4) {
#pragma unroll
      for (int half = 0; half < kRows; half += 4) {  // eight rows at once would take more registers
        typename FactorRows<Thread>::Four fours[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          fours[r] = factors.Load(first + half + r, behind);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int v = 0; v < kVectors; ++v) {
            const float value = x[v][behind + i];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
              sums[v][half + r] += fours[r].x[i] * value;
            }
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors && first + r < dim; ++v) {
        store(v, first + r, x[v][first + r] + sums[v][r]);
      }
    }
  }
}

// Rounds a key for the queries of `factors` and writes its codes to a panel's lane. x: the key, is
// overwritten. e: room for as much. Returns the scale; NaN when the key is not finite.
template <typename Thread, int kBits>
class KeyRounder {
 public:
  HD KeyRounder(const FactorRows<Thread>& factors, const Codebook& book, TileColumn x, TileColumn e)
      : factors_(factors), book_(book), dim_(factors.dim()), u_(x), e_(e) {}

  HD float Run(int num_fours, std::byte* lane) {
    Normalize();
    const TileColumn columns[1] = {u_};
    TransformKeys(factors_, columns, [this](int, int i, float key) { e_[i] = key; });
    RowPacker<kBits> packer(lane);
    const int used = dim_ / 4;
    for (int four = num_fours - 1; four >= used; --four) {
      packer.Put(four, 0);
    }
    for (int four = used - 1; four >= 0; --four) {
      packer.Put(four, RoundFour(four, used));
    }
    const float fitted = scale_ * Thread::DivideExactly(key_square_, key_square_ - key_error_);
    return SaneScale(fitted, scale_) * Thread::DivideExactly(norm_, size_) + (norm_ - norm_);
  }

 private:
  HD void Normalize() {
    float squares = 0;
    for (int i = 0; i < dim_; ++i) {
      squares += u_[i] * u_[i];
    }
    size_ = Thread::SquareRoot(static_cast<float>(dim_));
    norm_ = Thread::SquareRoot(squares);
    const float inverse = norm_ >= kSmallestNorm ? Thread::DivideExactly(size_, norm_) : 0.0F;
    float level_squares = 0;
    for (int i = 0; i < dim_; ++i) {
      u_[i] = u_[i] * inverse;
      const float level = NearestLevel<kBits>(u_[i], book_);
      level_squares += level * level;
    }
    scale_ = Thread::DivideExactly(size_, Thread::SquareRoot(level_squares));
    inverse_ = Thread::DivideExactly(1.0F, scale_);
  }

  // Coordinates 4 four .. + 3, the last one first. e_ holds the errors of those behind them and the
  // transformed key of these and those before.
  HD uint32_t RoundFour(int four, int used) {
    float errors[4] = {};
    uint32_t codes = 0;
#pragma unroll
    for (int r = 3; r >= 0; --r) {
      const int i = 4 * four + r;
      const auto near = factors_.Load(i, 4 * four);
      float carried = 0;
#pragma unroll
      for (int j = r + 1; j < 4; ++j) {
        carried += near.x[j] * errors[j];
      }
#pragma unroll 4
      for (int behind = four + 1; behind < used; ++behind) {
        const auto row = factors_.Load(i, 4 * behind);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          carried += row.x[j] * e_[4 * behind + j];
        }
      }
      const float wanted = u_[i] + carried;
      const int code = NearestCode<kBits>(wanted * inverse_, book_);
      const float decoded = scale_ * NearestLevel<kBits>(wanted * inverse_, book_);
      codes |= static_cast<uint32_t>(code) << 8 * r;
      errors[r] = u_[i] - decoded;
      const float key = e_[i];
      key_square_ += near.x[r] * (key * key);
      key_error_ += near.x[r] * (key * (wanted - decoded));
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      e_[4 * four + r] = errors[r];
    }
    return codes;
  }

  const FactorRows<Thread>& factors_;
  const Codebook& book_;
  int dim_;
  TileColumn u_;
  TileColumn e_;
  float size_ = 0;
  float norm_ = 0;
  float scale_ = 0;  // while it is rounded
  float inverse_ = 0;
  float key_square_ = 0;  // u^T M u
  float key_error_ = 0;   // u^T M e
};

}  // namespace thermocline
