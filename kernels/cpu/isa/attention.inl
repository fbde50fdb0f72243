// One decoded page against some query rows, with an online softmax (arXiv 1805.02867) whose state
// is rescaled once per page. For any Simd of 16 lanes.
//
// Every row's scores, sums and outputs are formed in an order that depends on its own length alone:
// how many rows are beside it, and which, changes no bit.

namespace {

constexpr int kMaxPageTokens = 64;
constexpr float kNoScore = -__builtin_inff();
constexpr uint64_t kAllKept = ~uint64_t{0};

// Scores of one row against up to 64 keys; those past `num_valid` are -infinity. Their largest.
inline float ScoreRow(const float* q, const float* k, int32_t dim, int num_valid, float* scores) {
  F largest = Simd::Set(kNoScore);
  for (int first = 0; first < num_valid; first += 16) {
    F dots[16];
#pragma GCC unroll 16
    for (F& dot : dots) {
      dot = Simd::Zero();
    }
    for (int32_t i = 0; i < dim; i += 16) {
      const F query = Simd::Load(q + i);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        dots[j] = Simd::Fma(query, Simd::Load(k + (first + j) * dim + i), dots[j]);
      }
    }
    const F sixteen = Simd::First(
        Simd::SumRows(dots), num_valid - first < 16 ? num_valid - first : 16, Simd::Set(kNoScore));
    Simd::Store(scores + first, sixteen);
    largest = Simd::Max(largest, sixteen);
  }
  return Simd::Largest(largest);
}

// Scores of positions that are not in `keep` become -infinity; the largest of the others.
inline float DropScores(uint64_t keep, int num_valid, float* scores) {
  float largest = kNoScore;
  for (int t = 0; t < num_valid; ++t) {
    scores[t] = (keep >> t & 1) != 0 ? scores[t] : kNoScore;
    largest = scores[t] > largest ? scores[t] : largest;
  }
  return largest;
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

// o = o * scale + weights x v for kRows rows of the same length, kVectors x 16 dimensions of each.
template <int kRows, int kVectors>
inline void AddValues(const float* v, int32_t dim, int num_valid, const float* weights,
                      const float* scales, float* o) {
  F sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = Simd::Mul(Simd::Load(o + r * dim + 16 * i), Simd::Set(scales[r]));
    }
  }
  for (int t = 0; t < num_valid; ++t) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const F value = Simd::Load(v + t * dim + 16 * i);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        sums[r][i] = Simd::Fma(value, Simd::Set(weights[r * kMaxPageTokens + t]), sums[r][i]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      Simd::Store(o + r * dim + 16 * i, sums[r][i]);
    }
  }
}

template <int kRows>
inline void AddAllValues(const float* v, int32_t dim, int num_valid, const float* weights,
                         const float* scales, float* o) {
  int32_t i = 0;
  for (; i + 64 <= dim; i += 64) {
    AddValues<kRows, 4>(v + i, dim, num_valid, weights, scales, o + i);
  }
  for (; i < dim; i += 16) {
    AddValues<kRows, 1>(v + i, dim, num_valid, weights, scales, o + i);
  }
}

// At most four rows that see the same number of positions.
void AttendRows(const PageAttention& page, int32_t first, int32_t num_rows) {
  float weights[4 * kMaxPageTokens];
  float scales[4];
  const int num_valid = page.num_valid[first];
  for (int32_t r = 0; r < num_rows; ++r) {
    const int32_t row = first + r;
    float* scores = weights + r * kMaxPageTokens;
    float largest = ScoreRow(page.q + int64_t{row} * page.dim, page.k, page.dim, num_valid, scores);
    if (page.keep != kAllKept) {
      largest = DropScores(page.keep, num_valid, scores);
    }
    const float max = largest > page.max[row] ? largest : page.max[row];
    float scale_lanes[16];
    Simd::Store(scale_lanes, Exp(Simd::Set(page.max[row] - max)));
    scales[r] = page.max[row] == kNoScore ? 0.0F : scale_lanes[0];
    const float sum = WeightRow(max, num_valid, scores);
    page.sum[row] = page.sum[row] * scales[r] + sum;
    page.max[row] = max;
    page.page_max[row] = largest;
    page.page_sum[row] = sum;
  }
  float* o = page.o + int64_t{first} * page.dim;
  switch (num_rows) {
    case 1:
      AddAllValues<1>(page.v, page.dim, num_valid, weights, scales, o);
      break;
    case 2:
      AddAllValues<2>(page.v, page.dim, num_valid, weights, scales, o);
      break;
    case 3:
      AddAllValues<3>(page.v, page.dim, num_valid, weights, scales, o);
      break;
    default:
      AddAllValues<4>(page.v, page.dim, num_valid, weights, scales, o);
      break;
  }
}

// Whether any of the first `num_valid` positions is there.
inline bool SeesAny(uint64_t keep, int num_valid) {
  return num_valid > 0 && keep << (kMaxPageTokens - num_valid) != 0;
}

void AttendPage(const PageAttention& page) {
  for (int32_t row = 0; row < page.num_rows;) {
    int32_t count = 1;
    while (count < 4 && row + count < page.num_rows &&
           page.num_valid[row + count] == page.num_valid[row]) {
      ++count;
    }
    if (SeesAny(page.keep, page.num_valid[row])) {
      AttendRows(page, row, count);
    }
    row += count;
  }
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
