// Adds the terms of a K bias to the scores of a coded page (BiasScores in isa_table.h). Lanes are
// the page's tokens; each row's sums are formed in one order. For any Simd of 16 lanes.

namespace {

constexpr int kMaxBiasPairs = kMaxHeadDim / 2;

// Sets scores [kRows][kMaxPageTokens] to `constants[r]` plus the bias terms of row r. Rows begin at
// `first`.
template <int kRows>
void ScoreBias(const BiasScores& bias, int32_t first, int32_t page_tokens, const float* constants,
               float* scores) {
  const int32_t num_pairs = bias.num_pairs;
  float turned[kRows][2 * kMaxBiasPairs];
  for (int r = 0; r < kRows; ++r) {
    const float* real = bias.products + int64_t{first + r} * 2 * num_pairs;
    const float* imaginary = real + num_pairs;
    const float* cos = bias.page_angles;
    const float* sin = cos + num_pairs;
    for (int32_t i = 0; i < num_pairs; ++i) {
      turned[r][i] = real[i] * cos[i] - imaginary[i] * sin[i];
      turned[r][num_pairs + i] = real[i] * sin[i] + imaginary[i] * cos[i];
    }
  }
  for (int32_t token = 0; token < page_tokens; token += 32) {
    F low[kRows];
    F high[kRows];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      low[r] = high[r] = Simd::Set(constants[r]);
    }
    const float* angles = bias.token_angles + token;
    for (int32_t i = 0; i < 2 * num_pairs; ++i, angles += page_tokens) {
      const F angle_low = Simd::Load(angles);
      const F angle_high = Simd::Load(angles + 16);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const F part = Simd::Set(turned[r][i]);
        low[r] = Simd::Fma(angle_low, part, low[r]);
        high[r] = Simd::Fma(angle_high, part, high[r]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      Simd::Store(scores + r * kMaxPageTokens + token, low[r]);
      Simd::Store(scores + r * kMaxPageTokens + token + 16, high[r]);
    }
  }
}

}  // namespace
