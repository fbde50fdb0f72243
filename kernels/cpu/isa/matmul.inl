// Products of activations with 16-row panels of quantised weights (kernels/cpu/panels.h), for any
// Simd of 16 lanes.
//
// A panel is multiplied with a tile of up to Simd::kMaxTokens rows of activations at a time.
// Whatever that number, the sums of one row of the result are formed in one order, so a token's
// result does not depend on its neighbours.

namespace {

using F = Simd::F;
using I = Simd::I;
using B = Simd::B;

template <PanelKind kKind>
struct Panel {
  static constexpr PanelShape kShape = ShapeOf(kKind);
  static constexpr bool kNibbles = kShape.nibbles;
  static constexpr int kZero = kShape.zero;
  static constexpr bool kFloatScales = kShape.float_scales;
  static constexpr bool kMinimum = kShape.minima;
  static constexpr bool kTwoScales = kShape.two_scales;
  static constexpr int kCodeBytes = kShape.code_bytes();
  static constexpr int kScaleBytes = kShape.scale_bytes();
  static constexpr int kBlockBytes = kShape.block_bytes();

  static F LoadScales(const uint8_t* p) {
    if constexpr (kFloatScales) {
      return Simd::Load(reinterpret_cast<const float*>(p));
    } else {
      return Simd::LoadHalf(reinterpret_cast<const uint16_t*>(p));
    }
  }
};

// Stores the results of a panel that has only `num_rows` rows. Not inlined: it would be copied into
// 16 functions that hardly use it.
[[gnu::noinline]] void StoreFewRows(const float* rows, int64_t num_rows, bool add, float* y) {
  for (int64_t i = 0; i < num_rows; ++i) {
    y[i] = add ? y[i] + rows[i] : rows[i];
  }
}

// The 16 results of one token in panel `p`.
inline void StoreRows(const PanelProduct& product, int64_t p, int64_t token, F sums) {
  float* y = product.y + token * product.y_stride + p * kPanelRows;
  const int64_t num_rows = product.num_rows - p * kPanelRows;
  if (num_rows >= kPanelRows) {
    Simd::Store(y, product.add ? Simd::Add(Simd::Load(y), sums) : sums);
    return;
  }
  float rows[kPanelRows];
  Simd::Store(rows, sums);
  StoreFewRows(rows, num_rows, product.add, y);
}

// One block of a tile's activations: a pointer for each four tokens, so that every operand is at a
// constant distance from one of two pointers.
template <int kTokens>
struct TileBlock {
  static constexpr int kFours = (kTokens + kGroupTokens - 1) / kGroupTokens;
  const int8_t* codes[kFours];
  const ActivationBlock* blocks[kFours];
  int64_t group_tokens;

  TileBlock(const PanelProduct& product, int64_t first) : group_tokens(product.group_tokens) {
    const int64_t num_blocks = product.num_columns / kBlockColumns;
    for (int f = 0; f < kFours; ++f) {
      const int64_t token = first + f * kGroupTokens;
      const int64_t block = token / group_tokens * num_blocks * group_tokens + token % group_tokens;
      codes[f] = product.codes + block * kBlockCodes;
      blocks[f] = product.blocks + block;
    }
  }
  const int8_t* high(int t) const {
    return codes[t / kGroupTokens] + t % kGroupTokens * kBlockCodes;
  }
  const int8_t* low(int t) const { return high(t) + kBlockColumns; }
  const ActivationBlock& block(int t) const { return blocks[t / kGroupTokens][t % kGroupTokens]; }
  void Next() {
    for (int f = 0; f < kFours; ++f) {
      codes[f] += group_tokens * kBlockCodes;
      blocks[f] += group_tokens;
    }
  }
};

// Integer products of a tile's tokens with 16 rows: with the high bytes of the activations and with
// the low ones. Two chains per token, and the weights are unpacked once for both.
template <int kTokens>
struct Dots {
  I high[kTokens];
  I low[kTokens];

  Dots() {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      high[t] = low[t] = Simd::SetInt(0);
    }
  }
};

// Multiplies a block of 32 columns.
template <int kTokens>
inline void DotNibbleBlock(const uint8_t* codes, const TileBlock<kTokens>& x, Dots<kTokens>& dots) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const B both = Simd::LoadBytes(codes + 64 * j);
    const B first = Simd::LowNibbles(both);
    const B second = Simd::HighNibbles(both);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      dots.high[t] = Simd::DotNibbles(dots.high[t], first, x.high(t) + 4 * j);
      dots.low[t] = Simd::DotNibbles(dots.low[t], first, x.low(t) + 4 * j);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      dots.high[t] = Simd::DotNibbles(dots.high[t], second, x.high(t) + 16 + 4 * j);
      dots.low[t] = Simd::DotNibbles(dots.low[t], second, x.low(t) + 16 + 4 * j);
    }
  }
}

// Multiplies half a block: 16 columns from `kColumn` on.
template <int kColumn, int kTokens>
inline void DotByteHalf(const uint8_t* codes, const TileBlock<kTokens>& x, Dots<kTokens>& dots) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const B bytes = Simd::LoadBytes(codes + 16 * kColumn + 64 * j);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      dots.high[t] = Simd::DotBytes(dots.high[t], bytes, x.high(t) + kColumn + 4 * j);
      dots.low[t] = Simd::DotBytes(dots.low[t], bytes, x.low(t) + kColumn + 4 * j);
    }
  }
}

constexpr int LogOf(int power) { return power <= 1 ? 0 : 1 + LogOf(power / 2); }

// sum + scale * (128 high + low - what the zero point adds to the halves of a block that count)
template <int kZero, bool kFirstHalf, bool kSecondHalf>
inline F AddScaled(I high, I low, const ActivationBlock& block, F scale, F sum) {
  I dot = Simd::AddInt(Simd::ShiftLeft<7>(high), low);
  if constexpr (kZero != 0 && kFirstHalf) {
    dot = Simd::SubInt(dot, Simd::ShiftLeft<LogOf(kZero)>(Simd::SetInt(block.sum_low)));
  }
  if constexpr (kZero != 0 && kSecondHalf) {
    dot = Simd::SubInt(dot, Simd::ShiftLeft<LogOf(kZero)>(Simd::SetInt(block.sum_high)));
  }
  return Simd::Fma(Simd::ToFloat(dot), Simd::Mul(scale, Simd::Set(block.scale)), sum);
}

template <int kZero, bool kFirstHalf, bool kSecondHalf, int kTokens>
inline void AddAllScaled(const Dots<kTokens>& dots, const TileBlock<kTokens>& x, F scale, F* sums) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    sums[t] = AddScaled<kZero, kFirstHalf, kSecondHalf>(dots.high[t], dots.low[t], x.block(t),
                                                        scale, sums[t]);
  }
}

// How far ahead of the sums a panel's memory is asked for: the processor's own prefetching comes
// too late (a quarter of the time of eight tokens was waiting, and on a Xeon a third of one
// token's).
constexpr int64_t kPrefetchBytes = 4096;

template <PanelKind kKind, int kTokens>
void MultiplyTile(const PanelProduct& product, int64_t p, int64_t first) {
  using P = Panel<kKind>;
  const int64_t num_blocks = product.num_columns / kBlockColumns;
  const uint8_t* codes = product.panels + p * product.panel_bytes;
  TileBlock<kTokens> x(product, first);
  F sums[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    sums[t] = Simd::Zero();
  }
  for (int64_t b = 0; b < num_blocks; ++b) {
#pragma GCC unroll 9
    for (int line = 0; line < P::kBlockBytes; line += 64) {
      __builtin_prefetch(codes + kPrefetchBytes + line);
    }
    const uint8_t* scales = codes + P::kCodeBytes;
    const F scale = P::LoadScales(scales);
    if constexpr (P::kTwoScales) {
      Dots<kTokens> first_half;
      DotByteHalf<0>(codes, x, first_half);
      AddAllScaled<P::kZero, true, false>(first_half, x, scale, sums);
      Dots<kTokens> second_half;
      DotByteHalf<16>(codes, x, second_half);
      AddAllScaled<P::kZero, false, true>(second_half, x, P::LoadScales(scales + P::kScaleBytes),
                                          sums);
    } else {
      Dots<kTokens> dots;
      if constexpr (P::kNibbles) {
        DotNibbleBlock(codes, x, dots);
      } else {
        DotByteHalf<0>(codes, x, dots);
        DotByteHalf<16>(codes, x, dots);
      }
      AddAllScaled<P::kZero, true, true>(dots, x, scale, sums);
    }
    if constexpr (P::kMinimum) {
      const F minimum = P::LoadScales(scales + P::kScaleBytes);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        sums[t] = Simd::Fma(minimum, Simd::Set(x.block(t).scaled_sum), sums[t]);
      }
    }
    codes += P::kBlockBytes;
    x.Next();
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    StoreRows(product, p, first + t, sums[t]);
  }
}

// A tile of activations meets one panel after the other and stays in the nearest cache meanwhile.
template <PanelKind kKind, int kTokens>
void MultiplyTiles(const PanelProduct& product, int64_t& token) {
  for (; token + kTokens <= product.num_tokens; token += kTokens) {
    for (int64_t p = 0; p < product.num_panels; ++p) {
      MultiplyTile<kKind, kTokens>(product, p, token);
    }
  }
}

// Multiplies the tokens from `token` on, as many at a time as there are registers for.
template <PanelKind kKind>
inline void MultiplyFrom(const PanelProduct& product, int64_t token) {
  if constexpr (Simd::kMaxTokens >= 8) {
    MultiplyTiles<kKind, 8>(product, token);
    MultiplyTiles<kKind, 4>(product, token);
  }
  MultiplyTiles<kKind, 2>(product, token);
  MultiplyTiles<kKind, 1>(product, token);
}

template <PanelKind kKind>
void MultiplyPanels(const PanelProduct& product) {
  MultiplyFrom<kKind>(product, 0);
}

// Quantises x [num_columns] by blocks of 32. Between the codes of two blocks lie those of the
// group's other tokens.
void QuantizeRow(const float* x, int64_t num_columns, int64_t group_tokens, int8_t* codes,
                 ActivationBlock* blocks) {
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
    ActivationBlock& block = blocks[b * group_tokens];
    int8_t* out = codes + b * group_tokens * kBlockCodes;
    block.scale = scale;
    block.sum_low = Simd::StoreCodes(out, out + kBlockColumns, Simd::Mul(low, inverse));
    block.sum_high = Simd::StoreCodes(out + 16, out + kBlockColumns + 16, Simd::Mul(high, inverse));
    block.scaled_sum = scale * static_cast<float>(block.sum_low + block.sum_high);
  }
}

}  // namespace
