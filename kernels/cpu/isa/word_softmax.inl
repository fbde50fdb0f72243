// The online softmax (arXiv 1805.02867) of some query rows over a page whose products are sums of
// int16 products. It turns sums with keys into weights in int16. Unlike softmax.inl it keeps what
// exists once per row in the lanes of one vector. For AVX-512 with VNNI.

namespace {

constexpr float kLog2E = 1.44269504F;

// 2^x to some 2e-7 of its value; 0 for -infinity.
inline F Exp2(F x) {
  const F f = Simd::Fraction(x);
  F p = Simd::Set(1.8775767e-3F);
  p = Simd::Fma(p, f, Simd::Set(8.9893397e-3F));
  p = Simd::Fma(p, f, Simd::Set(5.5826318e-2F));
  p = Simd::Fma(p, f, Simd::Set(2.4015361e-1F));
  p = Simd::Fma(p, f, Simd::Set(6.9315308e-1F));
  p = Simd::Fma(p, f, Simd::Set(9.9999994e-1F));
  return Simd::ScaleByFloor(p, x);
}

// The parts of a page's scores. The score of row r with token t is
//   sums[r][t] * q_steps[r] * k_steps[t] + bias[r] + starts[r][t]
struct ScoreTerms {
  const float* q_steps;  // [kRows]
  const float* k_steps;  // [page_tokens]
  const float* bias;     // [kRows] or null: none
  const float* starts;   // [kRows][kMaxPageTokens] or null: none
};

// The scales of products of int16 weights.
struct WordWeights {
  alignas(64) float steps[16];   // each row's scale of its products
  alignas(64) float scales[16];  // each row's factor for outputs of earlier pages
};

template <int kRows, typename Combine>
inline F CombineLanes(const F (&rows)[kRows], Combine combine) {
  F eight[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    eight[r] = rows[r < kRows ? r : 0];
  }
  return Simd::CombineRows(eight, combine);
}

// Turns sums [kRows][kMaxPageTokens] of integers in place into scores without their bias; where
// there are no starts, also without the factor q_steps. Scores behind num_valid, up to a multiple
// of 16, become -infinity. Returns each row's largest score, rows in the lanes.
template <int kRows>
inline F ScoreSums(const ScoreTerms& terms, int num_valid, float* sums) {
  F largest[kRows];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    largest[r] = Simd::Set(kNoScore);
  }
  for (int t = 0; t < num_valid; t += 16) {
    const F k_steps = Simd::Load(terms.k_steps + t);
    const uint32_t valid = num_valid - t < 16 ? (1U << (num_valid - t)) - 1 : 0xffffU;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      float* sixteen = sums + r * kMaxPageTokens + t;
      F score = Simd::Mul(Simd::ToFloat(Simd::FloatBits(Simd::Load(sixteen))), k_steps);
      if (terms.starts != nullptr) {
        score = Simd::Fma(score, Simd::Set(terms.q_steps[r]),
                          Simd::Load(terms.starts + r * kMaxPageTokens + t));
      }
      score = Simd::Masked(score, valid, Simd::Set(kNoScore));
      Simd::Store(sixteen, score);
      largest[r] = Simd::Max(largest[r], score);
    }
  }
  return CombineLanes<kRows>(largest, [](F a, F b) { return Simd::Max(a, b); });
}

// The largest of the first `count` steps, none of which is negative.
inline float LargestStep(const float* steps, int count) {
  F largest = Simd::Zero();
  for (int t = 0; t < count; t += 16) {
    largest = Simd::Max(largest, Simd::LoadFirst(steps + t, count - t < 16 ? count - t : 16));
  }
  return Simd::Largest(largest);
}

// Turns sums [kRows][kMaxPageTokens] into weights, each times the scale of its value, as pairs of
// int16 [kRows][kMaxPageTokens] for num_tokens, zero behind num_valid. Updates the rows' maxima and
// sums. `sums` is overwritten. A row's weights depend on what it sees alone.
template <int kRows>
inline void WeighSums(const QueryRows& rows, int32_t first, int num_valid, int num_tokens,
                      const ScoreTerms& terms, const float* v_steps, float* sums,
                      WordPair* pairs, WordWeights& to) {
  const F largest = ScoreSums<kRows>(terms, num_valid, sums);
  F unit = Simd::Set(1);
  F bias = Simd::Zero();
  if (terms.starts == nullptr) {
    unit = Simd::Max(Simd::LoadFirst(terms.q_steps, kRows), Simd::Set(1e-30F));
    bias = terms.bias == nullptr ? bias : Simd::LoadFirst(terms.bias, kRows);
  }
  const F page_max = Simd::Fma(largest, unit, bias);
  const F old_max = Simd::LoadFirst(rows.max + first, kRows);
  const F max = Simd::Max(old_max, page_max);
  Simd::StoreFirst(rows.max + first, max, kRows);
  Simd::StoreFirst(rows.page_max + first, page_max, kRows);
  // Weights are 2^(score * factor + offset).
  const F log2e = Simd::Set(kLog2E);
  const F factor = Simd::Mul(unit, log2e);
  const F exponent = Simd::Mul(max, log2e);
  const F offset = Simd::Sub(Simd::Mul(bias, log2e), exponent);
  const F scale = Exp2(Simd::Sub(Simd::Mul(old_max, log2e), exponent));
  alignas(64) float factors[16];
  alignas(64) float offsets[16];
  Simd::Store(factors, factor);
  Simd::Store(offsets, offset);
  Simd::Store(to.scales, scale);
  F sum[kRows];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    sum[r] = Simd::Zero();
  }
  for (int t = 0; t < num_valid; t += 16) {
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      float* sixteen = sums + r * kMaxPageTokens + t;
      const F weights =
          Exp2(Simd::Fma(Simd::Load(sixteen), Simd::Set(factors[r]), Simd::Set(offsets[r])));
      sum[r] = Simd::Add(sum[r], weights);
      Simd::Store(sixteen, weights);
    }
  }
  const F page_sum = CombineLanes<kRows>(sum, [](F a, F b) { return Simd::Add(a, b); });
  Simd::StoreFirst(rows.page_sum + first, page_sum, kRows);
  Simd::StoreFirst(rows.sum + first,
                   Simd::Fma(Simd::LoadFirst(rows.sum + first, kRows), scale, page_sum), kRows);
  const F largest_weight = Exp2(Simd::Fma(largest, factor, offset));
  const F step = Simd::Mul(Simd::Max(Simd::Mul(largest_weight, Simd::Set(1.0F / 32767)),
                                     Simd::Mul(page_sum, Simd::Set(1 / kWeightSteps))),
                           Simd::Set(LargestStep(v_steps, num_valid)));
  Simd::Store(to.steps, step);
  alignas(64) float inverse[16];
  Simd::Store(inverse, Simd::Div(Simd::Set(1), Simd::Max(step, Simd::Set(1e-30F))));
  for (int t = 0; t < num_tokens; t += 32) {
    const F v_low = t < num_valid ? Simd::Load(v_steps + t) : Simd::Zero();
    const F v_high = t + 16 < num_valid ? Simd::Load(v_steps + t + 16) : Simd::Zero();
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const float* weights = sums + r * kMaxPageTokens + t;
      const F low = t < num_valid ? Simd::Mul(Simd::Load(weights), v_low) : v_low;
      const F high = t + 16 < num_valid ? Simd::Mul(Simd::Load(weights + 16), v_high) : v_high;
      const F scale_of_row = Simd::Set(inverse[r]);
      Simd::StoreInts(
          &pairs[r * kMaxPageTokens + t / 2].bits,
          Simd::PairLowWords(RoundToWords(low, scale_of_row), RoundToWords(high, scale_of_row)));
    }
  }
}

}  // namespace
