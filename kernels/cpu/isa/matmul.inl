// Products of activations with 16-row panels (kernels/cpu/panels.h), for any Simd of 16 lanes.
//
// A panel is multiplied with up to Simd::kMaxTokens rows of activations at a time. Whatever that
// number, the sums of one row of the result are formed in one order, so a token's result does not
// depend on its neighbours.

namespace {

using F = Simd::F;
using I = Simd::I;
using B = Simd::B;

template <PanelKind kKind>
struct Panel {
  static constexpr bool kNibbles =
      kKind == PanelKind::kQ4_0 || kKind == PanelKind::kQ4_1 || kKind == PanelKind::kQ4_K;
  // Codes are unsigned; what they stand for is code - kZero.
  static constexpr int kZero = kKind == PanelKind::kQ4_0   ? 8
                               : kKind == PanelKind::kQ5_0 ? 16
                               : kKind == PanelKind::kQ6_K ? 32
                               : kKind == PanelKind::kQ8_0 ? 128
                                                           : 0;
  static constexpr bool kFloatScales =
      kKind == PanelKind::kQ4_K || kKind == PanelKind::kQ5_K || kKind == PanelKind::kQ6_K;
  static constexpr bool kMinimum = kKind == PanelKind::kQ4_1 || kKind == PanelKind::kQ5_1 ||
                                   kKind == PanelKind::kQ4_K || kKind == PanelKind::kQ5_K;
  static constexpr bool kTwoScales = kKind == PanelKind::kQ6_K;  // one per 16 columns
  static constexpr int kCodeBytes = kNibbles ? 256 : 512;
  static constexpr int kScaleBytes = kFloatScales ? 64 : 32;
  static constexpr int kBlockBytes = kCodeBytes + kScaleBytes * (kMinimum || kTwoScales ? 2 : 1);

  static F LoadScales(const uint8_t* p) {
    if constexpr (kFloatScales) {
      return Simd::Load(reinterpret_cast<const float*>(p));
    } else {
      return Simd::LoadHalf(reinterpret_cast<const uint16_t*>(p));
    }
  }
};

inline void StoreRows(const PanelProduct& product, int64_t token, F sums) {
  float* y = product.y + token * product.y_stride;
  if (product.num_rows == kPanelRows) {
    Simd::Store(y, product.add ? Simd::Add(Simd::Load(y), sums) : sums);
    return;
  }
  float rows[kPanelRows];
  Simd::Store(rows, sums);
  for (int i = 0; i < product.num_rows; ++i) {
    y[i] = product.add ? y[i] + rows[i] : rows[i];
  }
}

// The integer products of one half (16 columns) of a block of bytes, or of a whole block of
// nibbles, with one of the two bytes of the activations.
template <int kTokens>
inline void DotNibbleBlock(const uint8_t* codes, const int8_t* x, int64_t stride, I* dots) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const B both = Simd::LoadBytes(codes + 64 * j);
    const B low = Simd::LowNibbles(both);
    const B high = Simd::HighNibbles(both);
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      dots[t] = Simd::DotNibbles(dots[t], low, x + t * stride + 4 * j);
      dots[t] = Simd::DotNibbles(dots[t], high, x + t * stride + 16 + 4 * j);
    }
  }
}

template <int kTokens>
inline void DotByteHalf(const uint8_t* codes, const int8_t* x, int64_t stride, I* dots) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const B bytes = Simd::LoadBytes(codes + 64 * j);
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      dots[t] = Simd::DotBytes(dots[t], bytes, x + t * stride + 4 * j);
    }
  }
}

// dots = dots * 128 less what the weights' zero point adds to the products of the chosen halves of
// a block. `blocks` are `stride` apart from token to token.
template <int kZero, int kTokens>
inline void ShiftToLow(const ActivationBlock* blocks, int64_t stride, bool low_half, bool high_half,
                       I* dots) {
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) {
    dots[t] = Simd::Times128(dots[t]);
    if constexpr (kZero != 0) {
      const ActivationBlock& block = blocks[t * stride];
      const int32_t sum = (low_half ? block.sum_low : 0) + (high_half ? block.sum_high : 0);
      dots[t] = Simd::AddInt(dots[t], Simd::SetInt(-kZero * sum));
    }
  }
}

template <PanelKind kKind, int kTokens>
void MultiplyTokens(const PanelProduct& product, int64_t first) {
  using P = Panel<kKind>;
  const int64_t num_blocks = product.num_columns / kBlockColumns;
  const int64_t stride = 2 * product.num_columns;
  const int8_t* x = product.codes + first * stride;
  const ActivationBlock* blocks = product.blocks + first * num_blocks;
  const uint8_t* codes = product.panel;
  F sums[kTokens];
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) {
    sums[t] = Simd::Zero();
  }
  for (int64_t b = 0; b < num_blocks; ++b) {
    const uint8_t* scales = codes + P::kCodeBytes;
    const F scale = P::LoadScales(scales);
    I dots[kTokens];
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      dots[t] = Simd::SetInt(0);
    }
    // All products with the high bytes first; times 128, they start the sums of the low ones.
    if constexpr (P::kNibbles) {
      DotNibbleBlock<kTokens>(codes, x, stride, dots);
      ShiftToLow<P::kZero, kTokens>(blocks + b, num_blocks, true, true, dots);
      DotNibbleBlock<kTokens>(codes, x + kBlockColumns, stride, dots);
    } else {
      DotByteHalf<kTokens>(codes, x, stride, dots);
      if constexpr (P::kTwoScales) {
        ShiftToLow<P::kZero, kTokens>(blocks + b, num_blocks, true, false, dots);
        DotByteHalf<kTokens>(codes, x + kBlockColumns, stride, dots);
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          const ActivationBlock& block = blocks[t * num_blocks + b];
          sums[t] =
              Simd::Fma(Simd::ToFloat(dots[t]), Simd::Mul(scale, Simd::Set(block.scale)), sums[t]);
          dots[t] = Simd::SetInt(0);
        }
        DotByteHalf<kTokens>(codes + 256, x + 16, stride, dots);
        ShiftToLow<P::kZero, kTokens>(blocks + b, num_blocks, false, true, dots);
      } else {
        DotByteHalf<kTokens>(codes + 256, x + 16, stride, dots);
        ShiftToLow<P::kZero, kTokens>(blocks + b, num_blocks, true, true, dots);
        DotByteHalf<kTokens>(codes, x + kBlockColumns, stride, dots);
      }
      DotByteHalf<kTokens>(codes + 256, x + kBlockColumns + 16, stride, dots);
    }
    const F last_scale = P::kTwoScales ? P::LoadScales(scales + P::kScaleBytes) : scale;
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      const ActivationBlock& block = blocks[t * num_blocks + b];
      sums[t] =
          Simd::Fma(Simd::ToFloat(dots[t]), Simd::Mul(last_scale, Simd::Set(block.scale)), sums[t]);
    }
    if constexpr (P::kMinimum) {
      const F minimum = P::LoadScales(scales + P::kScaleBytes);
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        sums[t] = Simd::Fma(minimum, Simd::Set(blocks[t * num_blocks + b].scaled_sum), sums[t]);
      }
    }
    codes += P::kBlockBytes;
    x += 2 * kBlockColumns;
  }
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) {
    StoreRows(product, first + t, sums[t]);
  }
}

template <PanelKind kKind>
F LoadFloatColumn(const uint8_t* panel, int64_t column) {
  if constexpr (kKind == PanelKind::kF32) {
    return Simd::Load(reinterpret_cast<const float*>(panel) + column * kPanelRows);
  } else if constexpr (kKind == PanelKind::kF16) {
    return Simd::LoadHalf(reinterpret_cast<const uint16_t*>(panel) + column * kPanelRows);
  } else {
    return Simd::LoadBFloat16(reinterpret_cast<const uint16_t*>(panel) + column * kPanelRows);
  }
}

// Four sums per token, of columns 0, 4, 8, ..; 1, 5, 9, ..: enough independent chains for one
// token.
template <PanelKind kKind, int kTokens>
void MultiplyFloatTokens(const PanelProduct& product, int64_t first) {
  const int64_t num_columns = product.num_columns;
  const float* x = product.x + first * num_columns;
  F sums[kTokens][4];
  for (int t = 0; t < kTokens; ++t) {
    for (F& sum : sums[t]) {
      sum = Simd::Zero();
    }
  }
  const int64_t whole = num_columns / 4 * 4;
  for (int64_t column = 0; column < whole; column += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const F weights = LoadFloatColumn<kKind>(product.panel, column + j);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sums[t][j] = Simd::Fma(weights, Simd::Set(x[t * num_columns + column + j]), sums[t][j]);
      }
    }
  }
  for (int64_t column = whole; column < num_columns; ++column) {
    const F weights = LoadFloatColumn<kKind>(product.panel, column);
    for (int t = 0; t < kTokens; ++t) {
      sums[t][0] = Simd::Fma(weights, Simd::Set(x[t * num_columns + column]), sums[t][0]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    StoreRows(product, first + t,
              Simd::Add(Simd::Add(sums[t][0], sums[t][1]), Simd::Add(sums[t][2], sums[t][3])));
  }
}

template <PanelKind kKind, int kTokens>
void MultiplyAny(const PanelProduct& product, int64_t first) {
  if constexpr (kKind == PanelKind::kF32 || kKind == PanelKind::kF16 || kKind == PanelKind::kBF16) {
    MultiplyFloatTokens<kKind, kTokens>(product, first);
  } else {
    MultiplyTokens<kKind, kTokens>(product, first);
  }
}

// Takes as many tokens at a time as there are registers for.
template <PanelKind kKind>
void MultiplyPanel(const PanelProduct& product) {
  constexpr bool kFloats =
      kKind == PanelKind::kF32 || kKind == PanelKind::kF16 || kKind == PanelKind::kBF16;
  constexpr int kMost = kFloats && Simd::kMaxTokens > 4 ? 4 : Simd::kMaxTokens;
  int64_t token = 0;
  while (token < product.num_tokens) {
    const int64_t left = product.num_tokens - token;
    if constexpr (kMost >= 12) {
      if (left >= 12) {
        MultiplyAny<kKind, 12>(product, token);
        token += 12;
        continue;
      }
      if (left >= 8) {
        MultiplyAny<kKind, 8>(product, token);
        token += 8;
        continue;
      }
    }
    if constexpr (kMost >= 4) {
      if (left >= 4) {
        MultiplyAny<kKind, 4>(product, token);
        token += 4;
        continue;
      }
    }
    if (left >= 2) {
      MultiplyAny<kKind, 2>(product, token);
      token += 2;
    } else {
      MultiplyAny<kKind, 1>(product, token);
      token += 1;
    }
  }
}

// x [num_columns] -> codes and their scale, by blocks of 32.
void QuantizeRow(const float* x, int64_t num_columns, int8_t* codes, ActivationBlock* blocks) {
  for (int64_t b = 0; b < num_columns / kBlockColumns; ++b) {
    const F low = Simd::Load(x + b * kBlockColumns);
    const F high = Simd::Load(x + b * kBlockColumns + 16);
    const float largest = Simd::Largest(Simd::Max(Simd::Abs(low), Simd::Abs(high)));
    // Zero, or NaN where a value is not finite: such a row must not look sane in the result.
    const float poison = Simd::Sum(Simd::Add(Simd::Sub(low, low), Simd::Sub(high, high)));
    constexpr float kLargestCode = 127 * 128;
    const float scale = largest / kLargestCode + poison;
    // A block so small that its scale is no normal number is zero.
    const bool normal = scale >= 1.17549435e-38F;
    const F inverse = Simd::Set(normal ? kLargestCode / largest : 0.0F);
    ActivationBlock& block = blocks[b];
    int8_t* out = codes + b * 2 * kBlockColumns;
    block.scale = scale;
    block.sum_low = Simd::StoreCodes(out, out + kBlockColumns, Simd::Mul(low, inverse));
    block.sum_high = Simd::StoreCodes(out + 16, out + kBlockColumns + 16, Simd::Mul(high, inverse));
    block.scaled_sum = scale * static_cast<float>(block.sum_low + block.sum_high);
  }
}

}  // namespace
