// Rows of factors times rows of vectors, for any Simd of 16 lanes and for elements of which there
// are LoadSixteen, LoadFactor and MultiplyAdd: floats, halves and, where the CPU has them, pairs.

namespace {

// sums[r][i] += a[r][n] * b[n][i] for n = 0, 1, ..; i counts vectors of 16.
template <int kRows, int kVectors, typename A, typename T>
[[gnu::always_inline]] inline void MultiplyRows(const A* a, int64_t a_stride, const T* b,
                                                int64_t b_stride, int count,
                                                F (&sums)[kRows][kVectors]) {
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

// scores [kRows][kMaxPageTokens] of 16 * kVectors positions: rows of `count` elements of q,
// q_stride apart, times k [count][page_tokens].
template <int kRows, int kVectors, typename A, typename T>
inline void ScoreTokens(const A* q, int64_t q_stride, const T* k, int page_tokens, int count,
                        float* scores) {
  F sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = Simd::Zero();
    }
  }
  MultiplyRows<kRows, kVectors>(q, q_stride, k, page_tokens, count, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      Simd::Store(scores + r * kMaxPageTokens + 16 * i, sums[r][i]);
    }
  }
}

// Of the first `num_valid` positions, and some after them.
template <int kRows, typename A, typename T>
inline void ScorePage(const A* q, int64_t q_stride, const T* k, int page_tokens, int count,
                      int num_valid, float* scores) {
  constexpr int kWide = Simd::NumVectors(kRows);
  constexpr int kNarrow = kWide < 2 ? kWide : 2;
  int token = 0;
  if constexpr (kWide > kNarrow) {
    for (; num_valid - token > 16 * kNarrow; token += 16 * kWide) {
      ScoreTokens<kRows, kWide>(q, q_stride, k + token, page_tokens, count, scores + token);
    }
  }
  for (; token < num_valid; token += 16 * kNarrow) {
    ScoreTokens<kRows, kNarrow>(q, q_stride, k + token, page_tokens, count, scores + token);
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
