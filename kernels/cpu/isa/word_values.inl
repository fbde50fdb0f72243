// Values, codes and weights as int16, pairs in 32-bit lanes. Defines the elements that
// code_pairs.inl and multiply_rows.inl use. For AVX-512 with VNNI.

namespace {

// No sum of products of values and a row's weights of a page leaves 32 bits: values are within
// +-kValueSteps, and weights add up to kWeightSteps.
constexpr float kValueSteps = 16383;
constexpr float kWeightSteps = 130000;
static_assert(kValueSteps * (double{kWeightSteps} + 0.5 * kMaxPageTokens) < double{0x7fffffff});

using Pair = WordPair;

inline Words AsPairs(I x) { return {x}; }

// No sum of products with a codebook's int16 levels leaves 32 bits either.
static_assert(kMaxWord <= kKeySteps && kMaxWord <= kValueSteps);

// A codebook's int16 levels as a table for LookUpWords.
template <int kBits>
inline I MakeWordTable(const Codebook& book) {
  if constexpr (kBits == 8) {
    return Simd::SetInt(0);
  } else {
    return Simd::TwiceHalves(reinterpret_cast<const uint16_t*>(book.words));
  }
}

// The scale of the int16 that stand for codes of kBits.
template <int kBits>
inline float WordStep(const Codebook& book) {
  return kBits == 8 ? 1.0F : book.word_step;
}

// Bytes 0 and 2 of each lane, signed.
inline I BytesToPairs(I codes) { return Simd::LowBytesOfWords(codes); }

// Turns values in halves into pairs of int16, v [page_tokens / 2][dim], zero where nothing is
// written, with scales [page_tokens]. kWhole: a multiple of 16 dimensions, none of them padding.
struct ValueRows {
  const PageAttention& page;

  // Dimensions i to i + 15 of a token's value; zeros beyond head_dim and num_written.
  template <bool kWhole>
  Simd::H Load(int token, int i) const {
    const uint16_t* values = page.v + int64_t{token} * page.head_dim + i;
    if constexpr (kWhole) {
      return Simd::LoadHalves(values);
    } else {
      return Simd::LoadFirstOfHalves(values, token < page.num_written ? page.head_dim - i : 0);
    }
  }

  // 16 values from `token` on.
  template <bool kWhole>
  void Narrow(int token, WordPair* v, float* steps) const {
    const int32_t dim = page.rows.dim;
    alignas(64) float scales[16];
    const F largest =
        Simd::ToFloat(LargestOfRows(page.v + int64_t{token} * page.head_dim, page.head_dim,
                                    page.head_dim, page.num_written - token));
    Simd::Store(steps + token, Simd::Mul(largest, Simd::Set(1 / kValueSteps)));
    Simd::Store(scales, Simd::Div(Simd::Set(kValueSteps), Simd::Max(largest, Simd::Set(1e-30F))));
    for (int four = 0; four < 16; four += 4) {
      F of_tokens[4];
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        of_tokens[t] = Simd::Set(scales[four + t]);
      }
      WordPair* pairs = v + (token + four) / 2 * dim;
      for (int i = 0; i < dim; i += 16, pairs += 16) {
        I words[4];
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
          const F values = Simd::ToFloat(Load<kWhole>(token + four + t, i));
          words[t] = RoundToWords(values, of_tokens[t]);
        }
        Simd::StoreInts(&pairs->bits, Simd::PairWords(words[0], words[2]));
        Simd::StoreInts(&pairs[dim].bits, Simd::PairWords(words[1], words[3]));
      }
    }
  }
};

inline void NarrowValues(const PageAttention& page, WordPair* v, float* steps) {
  const ValueRows rows{page};
  for (int token = 0; token < page.num_written; token += 16) {
    for (int i = 0; i < 16 * page.head_dim; i += 256) {
      FetchNext(page, (page.page_tokens + token) * page.head_dim + i);
    }
    if (page.head_dim == page.rows.dim && token + 16 <= page.num_written) {
      rows.Narrow<true>(token, v, steps);
    } else {
      rows.Narrow<false>(token, v, steps);
    }
  }
}

}  // namespace
