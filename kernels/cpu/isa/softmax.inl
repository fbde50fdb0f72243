// The online softmax (arXiv 1805.02867) of query rows over a page. The state is rescaled once per
// page. For any Simd of 16 lanes.
//
// Every row's scores, sums and outputs are formed in an order that depends on its own length alone:
// a score is one chain of products over the dimensions, an output one over the positions. How many
// rows are beside it, and which, changes no bit.

namespace {

constexpr int kMaxPageTokens = 64;
constexpr int kMaxRows = 6;    // rows that are multiplied with a vector while it is in a register
constexpr int kManyRows = 12;  // from so many rows on, dequantising a page to a buffer pays
constexpr float kNoScore = -__builtin_inff();

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

// Turns scores into weights e^(score - max) in place. Returns their sum.
inline float WeightRow(float max, int num_valid, float* scores) {
  F sum = Simd::Zero();
  for (int first = 0; first < num_valid; first += 16) {
    const F weights = Exp(Simd::Sub(Simd::Load(scores + first), Simd::Set(max)));
    Simd::Store(scores + first, weights);
    sum = Simd::Add(sum, weights);
  }
  return Simd::Sum(sum);
}

// Turns scores of kRows rows into weights, and updates the rows' maxima and sums. scales [16]: the
// factors of earlier pages' weights.
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

// attend.Run<kRows>(first, num_valid) for runs of up to kMost rows that see the same number of
// positions, at least one.
template <int kMost, typename Attend>
inline void ForRuns(const QueryRows& rows, const Attend& attend) {
  static_assert(kMost == 4 || kMost == 6);
  for (int32_t row = 0; row < rows.num_rows;) {
    const int num_valid = rows.num_valid[row];
    int32_t count = 1;
    while (count < kMost && row + count < rows.num_rows &&
           rows.num_valid[row + count] == num_valid) {
      ++count;
    }
    count = count == 5 ? 4 : count;  // g++ 12 keeps sums of five rows on the stack
    if (num_valid > 0) {
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
        case 6:
          if constexpr (kMost == 6) {
            attend.template Run<6>(row, num_valid);
          }
          break;
        default:
          attend.template Run<4>(row, num_valid);
          break;
      }
    }
    row += count;
  }
}

void MergeState(float from_max, float from_sum, const float* from_o, int32_t dim, float* max,
                float* sum, float* o) {
  if (from_max == kNoScore) {
    return;
  }
  const SoftmaxMerge merge = MergeSoftmax(*max, from_max, [](float x) {
    float lanes[16];
    Simd::Store(lanes, Exp(Simd::Set(x)));
    return lanes[0];
  });
  *max = merge.max;
  *sum = *sum * merge.to_scale + from_sum * merge.from_scale;
  for (int32_t i = 0; i < dim; i += 16) {
    const F kept = Simd::Mul(Simd::Load(o + i), Simd::Set(merge.to_scale));
    Simd::Store(o + i, Simd::Fma(Simd::Load(from_o + i), Simd::Set(merge.from_scale), kept));
  }
}

}  // namespace
