// Products of rows of factors with rows of vectors. For any Simd of 16 lanes, and for any elements
// that have LoadSixteen, LoadFactor, MultiplyAdd and ZeroSum: floats, halves and, where the CPU has
// the instructions, pairs of int16.

namespace {

inline void StoreSum(float* p, F sum) { Simd::Store(p, sum); }

// sums[r][i] += a[r][n] * b[n][i] for n = 0, 1, ..; i counts vectors of 16.
template <int kRows, int kVectors, typename A, typename T, typename Sum>
[[gnu::always_inline]] inline void MultiplyRows(const A* a, int64_t a_stride, const T* b,
                                                int64_t b_stride, int count,
                                                Sum (&sums)[kRows][kVectors]) {
  for (int n = 0; n < count; ++n, ++a, b += b_stride) {
    decltype(LoadSixteen(b)) vectors[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      vectors[i] = LoadSixteen(b + 16 * i);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const auto factor = LoadFactor(a + r * a_stride);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        sums[r][i] = MultiplyAdd(vectors[i], factor, sums[r][i]);
      }
    }
  }
}

// Computes products [kRows][kMaxPageTokens] of rows of a, `count` elements long and a_stride apart,
// with 16 * kVectors columns of b. Not inlined: beside other code, g++ 12 keeps sums on the stack.
template <int kRows, int kVectors, typename A, typename T>
[[gnu::noinline]] void MultiplySixteens(const A* a, int64_t a_stride, const T* b, int64_t b_stride,
                                        int count, float* products) {
  decltype(ZeroSum(LoadSixteen(b))) sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = ZeroSum(LoadSixteen(b));
    }
  }
  MultiplyRows<kRows, kVectors>(a, a_stride, b, b_stride, count, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      StoreSum(products + r * kMaxPageTokens + 16 * i, sums[r][i]);
    }
  }
}

// Computes products with the first `num_columns` columns of b, at most kMaxPageTokens, and with
// some after them.
template <int kRows, typename A, typename T>
inline void MultiplyColumns(const A* a, int64_t a_stride, const T* b, int64_t b_stride, int count,
                            int num_columns, float* products) {
  constexpr int kWide = Simd::NumVectors(kRows);
  constexpr int kNarrow = kWide < 2 ? kWide : 2;
  int column = 0;
  if constexpr (kWide > kNarrow) {
    for (; num_columns - column > 16 * kNarrow; column += 16 * kWide) {
      MultiplySixteens<kRows, kWide>(a, a_stride, b + column, b_stride, count, products + column);
    }
  }
  for (; column < num_columns; column += 16 * kNarrow) {
    MultiplySixteens<kRows, kNarrow>(a, a_stride, b + column, b_stride, count, products + column);
  }
}

// o = o * scale + weights [kRows][kMaxPageTokens] x v for `count` rows of v, kVectors x 16
// dimensions of each.
template <int kRows, int kVectors, typename A, typename T>
inline void AddValues(const T* v, int64_t v_stride, int count, const A* weights,
                      const float* scales, float* o, int64_t dim) {
  F sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = Simd::Mul(Simd::Load(o + r * dim + 16 * i), Simd::Set(scales[r]));
    }
  }
  MultiplyRows<kRows, kVectors>(weights, kMaxPageTokens, v, v_stride, count, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      Simd::Store(o + r * dim + 16 * i, sums[r][i]);
    }
  }
}

template <int kRows, typename A, typename T>
inline void AddPage(const T* v, int64_t v_stride, int count, const A* weights, const float* scales,
                    float* o, int64_t dim) {
  constexpr int kWide = Simd::NumVectors(kRows);
  constexpr int kNarrow = kWide < 2 ? kWide : 2;
  int64_t i = 0;
  for (; i + 16 * kWide <= dim; i += 16 * kWide) {
    AddValues<kRows, kWide>(v + i, v_stride, count, weights, scales, o + i, dim);
  }
  for (; i < dim; i += 16 * kNarrow) {
    AddValues<kRows, kNarrow>(v + i, v_stride, count, weights, scales, o + i, dim);
  }
}

}  // namespace
