#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/codebook.h"
#include "kernels/core/quantize.h"
#include "kernels/cuda/moves/row_packer.cuh"
#include "kernels/cuda/moves/tile.cuh"

// The functions of kernels/core/quantize.h, each lane for a vector of its own in shared memory. The
// bits are theirs: see there for the arithmetic.

namespace thermocline {

using TileColumn = Column<kTileStride>;

template <int kBits>
HD int NearestCode(float x, const Codebook& book) {
  int code = 0;
#pragma unroll
  for (int t = 0; t + 1 < 1 << kBits; ++t) {
    code += x <= book.thresholds[t] ? 0 : 1;
  }
  return code;
}

// The level of NearestCode, which costs no lookup.
template <int kBits>
HD float NearestLevel(float x, const Codebook& book) {
  float level = book.levels[0];
#pragma unroll
  for (int t = 0; t + 1 < 1 << kBits; ++t) {
    level = x <= book.thresholds[t] ? level : book.levels[t + 1];
  }
  return level;
}

template <int kWidth>
HD void AddHalves(float (&sums)[16]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    sums[i] += sums[i + kWidth];
  }
}
HD inline float AddSixteen(float (&sums)[16]) {  // AddPairwise, in registers
  AddHalves<8>(sums);
  AddHalves<4>(sums);
  AddHalves<2>(sums);
  AddHalves<1>(sums);
  return sums[0];
}

// How a vector becomes codes: code = round(x * inverse), in the sense of its codec.
struct RowScale {
  float scale;  // NaN: the vector is not finite
  float inverse;
};

// QuantizeTurbo without its codes. Columns behind `dim` are zeros.
template <typename Thread, int kBits>
HD RowScale TurboScale(TileColumn x, int dim, const Codebook& book) {
  float squares[16] = {};
  for (int first = 0; first < dim; first += 16) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      squares[i] += x[first + i] * x[first + i];
    }
  }
  const float norm = Thread::SquareRoot(AddSixteen(squares));
  const float root = Thread::SquareRoot(static_cast<float>(dim));
  const float inverse = norm > 0 ? Thread::DivideExactly(root, norm) : 0.0F;
  float level_squares[16] = {};
  for (int first = 0; first < dim; first += 16) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float level = NearestLevel<kBits>(x[first + i] * inverse, book);
      level_squares[i] += first + i < dim ? level * level : 0.0F;
    }
  }
  const float of_levels = Thread::SquareRoot(AddSixteen(level_squares));
  return {Thread::DivideExactly(norm, of_levels) + (norm - norm), inverse};
}

// QuantizeInt8 without its codes.
template <typename Thread>
HD RowScale Int8Scale(TileColumn x, int dim) {
  float largest = 0;
  float poison = 0;
  for (int i = 0; i < dim; ++i) {
    const float value = x[i];
    const float magnitude = std::fabs(value);
    largest = magnitude > largest ? magnitude : largest;
    poison += value - value;
  }
  const float scale = HalfToFloat(ScaleToHalf(Thread::DivideExactly(largest, 127.0F)));
  const float inverse = scale > 0 ? Thread::DivideExactly(1.0F, scale) : 0.0F;
  return {scale + poison, inverse};
}

// The code of a coordinate, as a byte.
template <typename Thread, int kBits>
HD uint32_t CodeByte(float x, float inverse, const Codebook& book) {
  if constexpr (kBits == 8) {
    const float code = Thread::RoundToWhole(x * inverse);
    const float low = code > -127.0F ? code : -127.0F;  // of a NaN too, which is refused later
    const float bounded = low < 127.0F ? low : 127.0F;
    return static_cast<uint32_t>(static_cast<int32_t>(bounded)) & 0xffU;
  } else {
    return static_cast<uint32_t>(NearestCode<kBits>(x * inverse, book));
  }
}

// The codes of a lane's own vector, `num_fours` times four of them, into a panel's lane.
template <typename Thread, int kBits>
HD void PackVector(TileColumn x, int dim, int num_fours, float inverse, const Codebook& book,
                   std::byte* lane) {
  RowPacker<kBits> packer(lane);
  for (int four = num_fours - 1; four >= 0; --four) {
    uint32_t codes = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = 4 * four + e;
      codes |= i < dim ? CodeByte<Thread, kBits>(x[i], inverse, book) << 8 * e : 0U;
    }
    packer.Put(four, codes);
  }
}

}  // namespace thermocline
