// A page in halves against some query rows, with an online softmax (arXiv 1805.02867) whose state
// is rescaled once per page. For any Simd of 16 lanes.
//
// Every row's scores, sums and outputs are formed in an order that depends on its own length alone:
// a score is one chain of products over the dimensions, an output one over the positions. How many
// rows are beside it, and which, changes no bit.

namespace {

constexpr int kMaxPageTokens = 64;
constexpr int kMaxRows = 6;    // that are multiplied with a vector while it is in a register
constexpr int kManyRows = 12;  // so many pay for a buffer of floats
constexpr float kNoScore = -__builtin_inff();
constexpr uint64_t kAllKept = ~uint64_t{0};

inline F LoadSixteen(const float* p) { return Simd::Load(p); }
inline F LoadSixteen(const uint16_t* p) { return Simd::LoadHalf(p); }

// sums[r][i] += a[r][n] * b[n][i] for n = 0, 1, ..; i counts vectors of 16.
template <int kRows, int kVectors, typename T>
[[gnu::always_inline]] inline void MultiplyRows(const float* a, int64_t a_stride, const T* b,
                                                int64_t b_stride, int count,
                                                F (&sums)[kRows][kVectors]) {
  for (int n = 0; n < count; ++n, ++a, b += b_stride) {
    F vectors[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      vectors[i] = LoadSixteen(b + 16 * i);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const F factor = Simd::Set(a[r * a_stride]);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        sums[r][i] = Simd::Fma(vectors[i], factor, sums[r][i]);
      }
    }
  }
}

// scores [kRows][kMaxPageTokens] of 16 * kVectors positions: rows of q times k [dim][page_tokens].
template <int kRows, int kVectors, typename T>
inline void ScoreTokens(const float* q, int64_t dim, const T* k, int page_tokens, int head_dim,
                        float* scores) {
  F sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = Simd::Zero();
    }
  }
  MultiplyRows<kRows, kVectors>(q, dim, k, page_tokens, head_dim, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      Simd::Store(scores + r * kMaxPageTokens + 16 * i, sums[r][i]);
    }
  }
}

// Of the first `num_valid` positions, and some after them.
template <int kRows, typename T>
inline void ScorePage(const float* q, int64_t dim, const T* k, int page_tokens, int head_dim,
                      int num_valid, float* scores) {
  constexpr int kWide = Simd::NumVectors(kRows);
  constexpr int kNarrow = kWide < 2 ? kWide : 2;
  int token = 0;
  if constexpr (kWide > kNarrow) {
    for (; num_valid - token > 16 * kNarrow; token += 16 * kWide) {
      ScoreTokens<kRows, kWide>(q, dim, k + token, page_tokens, head_dim, scores + token);
    }
  }
  for (; token < num_valid; token += 16 * kNarrow) {
    ScoreTokens<kRows, kNarrow>(q, dim, k + token, page_tokens, head_dim, scores + token);
  }
}

// o = o * scale + weights x v for kRows rows of the same length, kVectors x 16 dimensions of each.
template <int kRows, int kVectors, typename T>
inline void AddValues(const T* v, int64_t v_stride, int num_valid, const float* weights,
                      const float* scales, float* o, int64_t dim) {
  F sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = Simd::Mul(Simd::Load(o + r * dim + 16 * i), Simd::Set(scales[r]));
    }
  }
  MultiplyRows<kRows, kVectors>(weights, kMaxPageTokens, v, v_stride, num_valid, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      Simd::Store(o + r * dim + 16 * i, sums[r][i]);
    }
  }
}

template <int kRows, typename T>
inline void AddPage(const T* v, int64_t v_stride, int num_valid, const float* weights,
                    const float* scales, float* o, int64_t dim) {
  constexpr int kWide = Simd::NumVectors(kRows);
  constexpr int kNarrow = kWide < 2 ? kWide : 2;
  int64_t i = 0;
  for (; i + 16 * kWide <= dim; i += 16 * kWide) {
    AddValues<kRows, kWide>(v + i, v_stride, num_valid, weights, scales, o + i, dim);
  }
  for (; i < dim; i += 16 * kNarrow) {
    AddValues<kRows, kNarrow>(v + i, v_stride, num_valid, weights, scales, o + i, dim);
  }
}

// Scores of positions that are not in `keep` become -infinity.
inline void DropScores(uint64_t keep, int num_valid, float* scores) {
  for (int t = 0; t < num_valid; ++t) {
    scores[t] = (keep >> t & 1) != 0 ? scores[t] : kNoScore;
  }
}

// The largest score of the first `num_valid` positions; those after them, up to a multiple of 16,
// become -infinity.
inline float CutScores(int num_valid, float* scores) {
  F largest = Simd::Set(kNoScore);
  int t = 0;
  for (; t + 16 <= num_valid; t += 16) {
    largest = Simd::Max(largest, Simd::Load(scores + t));
  }
  if (t < num_valid) {
    const F last = Simd::First(Simd::Load(scores + t), num_valid - t, Simd::Set(kNoScore));
    Simd::Store(scores + t, last);
    largest = Simd::Max(largest, last);
  }
  return Simd::Largest(largest);
}

// Scores -> weights e^(score - max) in place; their sum.
inline float WeightRow(float max, int num_valid, float* scores) {
  F sum = Simd::Zero();
  for (int first = 0; first < num_valid; first += 16) {
    const F weights = Exp(Simd::Sub(Simd::Load(scores + first), Simd::Set(max)));
    Simd::Store(scores + first, weights);
    sum = Simd::Add(sum, weights);
  }
  return Simd::Sum(sum);
}

// Scores of kRows rows -> weights, and the rows' new maxima and sums. scales [16]: what the weights
// of earlier pages are multiplied with.
template <int kRows>
inline void WeightRows(const QueryRows& rows, int32_t first, int num_valid, float* scores,
                       float* scales) {
  for (int r = 0; r < kRows; ++r) {
    const float page_max = CutScores(num_valid, scores + r * kMaxPageTokens);
    const float old_max = rows.max[first + r];
    const float max = page_max > old_max ? page_max : old_max;
    scales[r] = old_max - max;
    rows.max[first + r] = max;
    rows.page_max[first + r] = page_max;
  }
  for (int r = kRows; r < 16; ++r) {
    scales[r] = 0;
  }
  Simd::Store(scales, Exp(Simd::Load(scales)));
  for (int r = 0; r < kRows; ++r) {
    const float sum = WeightRow(rows.max[first + r], num_valid, scores + r * kMaxPageTokens);
    rows.sum[first + r] = rows.sum[first + r] * scales[r] + sum;
    rows.page_sum[first + r] = sum;
  }
}

// Whether any of the first `num_valid` positions is there.
inline bool SeesAny(uint64_t keep, int num_valid) {
  return num_valid > 0 && keep << (kMaxPageTokens - num_valid) != 0;
}

// attend.Run<kRows>(first, num_valid) for runs of up to kMost rows that see the same number of
// positions, at least one of them in `keep`.
template <int kMost, typename Attend>
inline void ForRuns(const QueryRows& rows, uint64_t keep, const Attend& attend) {
  for (int32_t row = 0; row < rows.num_rows;) {
    const int num_valid = rows.num_valid[row];
    int32_t count = 1;
    while (count < kMost && row + count < rows.num_rows &&
           rows.num_valid[row + count] == num_valid) {
      ++count;
    }
    if (SeesAny(keep, num_valid)) {
      switch (count) {
        case 1:
          attend.template Run<1>(row, num_valid);
          break;
        case 2:
          attend.template Run<2>(row, num_valid);
          break;
        case 3:
          attend.template Run<3>(row, num_valid);
          break;
        case 4:
          attend.template Run<4>(row, num_valid);
          break;
        case 5:
          attend.template Run<(kMost < 5 ? 1 : 5)>(row, num_valid);
          break;
        default:
          attend.template Run<(kMost < 6 ? 1 : 6)>(row, num_valid);
          break;
      }
    }
    row += count;
  }
}

// Rows against k [dim][page_tokens] and v, rows v_stride apart.
template <typename K, typename V>
struct HalfPage {
  const PageAttention& page;
  const K* k;
  const V* v;
  int64_t v_stride;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    const QueryRows& rows = page.rows;
    ScorePage<kRows>(rows.q + int64_t{first} * rows.dim, rows.dim, k, page.page_tokens,
                     page.head_dim, num_valid, weights);
    if (page.keep != kAllKept) {
      for (int r = 0; r < kRows; ++r) {
        DropScores(page.keep, num_valid, weights + r * kMaxPageTokens);
      }
    }
    WeightRows<kRows>(rows, first, num_valid, weights, scales);
    AddPage<kRows>(v, v_stride, num_valid, weights, scales, rows.o + int64_t{first} * rows.dim,
                   rows.dim);
  }
};

inline void StoreSixteen(float* p, Simd::H x) { Simd::Store(p, Simd::ToFloat(x)); }
inline void StoreSixteen(uint16_t* p, Simd::H x) { Simd::StoreHalves(p, x); }

// Keys to k [dim][page_tokens]. What lies beyond head_dim, or the positions that are written, is
// not defined.
template <typename T>
inline void TransposeKeys(const PageAttention& page, T* k) {
  for (int token = 0; token < page.num_written; token += 16) {
    for (int i = 0; i < page.head_dim; i += 16) {
      Simd::H columns[16];
      Simd::TransposeHalves(page.k + token * page.head_dim + i, page.head_dim, columns);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        StoreSixteen(k + (i + j) * page.page_tokens + token, columns[j]);
      }
    }
  }
}

// Values to v [page_tokens][dim], zero-padded.
inline void WidenValues(const PageAttention& page, float* v) {
  const int32_t dim = page.rows.dim;
  for (int t = 0; t < page.num_written; ++t) {
    HalfRowToFloat(page.v + t * page.head_dim, page.head_dim, v + t * dim);
    for (int i = page.head_dim; i < dim; ++i) {
      v[t * dim + i] = 0;
    }
  }
}

void AttendPage(const PageAttention& page) {
  const PageBuffers& to = page.buffers;
  const int32_t dim = page.rows.dim;
  if (page.rows.num_rows < kManyRows && page.head_dim == dim) {
    auto* k = reinterpret_cast<uint16_t*>(to.k);
    TransposeKeys(page, k);
    ForRuns<kMaxRows>(page.rows, page.keep,
                      HalfPage<uint16_t, uint16_t>{page, k, page.v, page.head_dim});
    return;
  }
  TransposeKeys(page, to.k);
  WidenValues(page, to.v);
  ForRuns<kMaxRows>(page.rows, page.keep, HalfPage<float, float>{page, to.k, to.v, dim});
}

void MergeState(float from_max, float from_sum, const float* from_o, int32_t dim, float* max,
                float* sum, float* o) {
  if (from_max == kNoScore) {
    return;
  }
  const float larger = from_max > *max ? from_max : *max;
  float lanes[32];
  Simd::Store(lanes, Exp(Simd::Set(from_max - larger)));
  Simd::Store(lanes + 16, Exp(Simd::Set(*max - larger)));
  const float from_scale = lanes[0];
  const float scale = *max == kNoScore ? 0.0F : lanes[16];
  *max = larger;
  *sum = *sum * scale + from_sum * from_scale;
  for (int32_t i = 0; i < dim; i += 16) {
    const F kept = Simd::Mul(Simd::Load(o + i), Simd::Set(scale));
    Simd::Store(o + i, Simd::Fma(Simd::Load(from_o + i), Simd::Set(from_scale), kept));
  }
}

}  // namespace
