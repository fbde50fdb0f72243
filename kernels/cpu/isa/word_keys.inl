// Scores of keys in halves as exact sums of 16-bit integers, pairs of neighbours in 32-bit lanes: a
// key has its own scale, a query another. For AVX-512 with VNNI.

namespace {

constexpr int kMaxDim = 512;

// No sum of products of a key and a query leaves 32 bits: keys are within +-kKeySteps, and the
// magnitudes of a query add up to kQuerySteps, its rounding not counted.
constexpr float kKeySteps = 8191;
constexpr float kQuerySteps = 260000;
static_assert(kKeySteps * (double{kQuerySteps} + 0.5 * kMaxDim) < double{0x7fffffff});

struct WordPair {
  uint32_t bits;
};
struct Words {
  I bits;
};

inline Words LoadSixteen(const WordPair* p) {
  return {Simd::LoadInts(reinterpret_cast<const uint8_t*>(p))};
}
inline Words LoadFactor(const WordPair* p) { return {Simd::SetInt(static_cast<int32_t>(p->bits))}; }
// `sum` holds integers.
inline F MultiplyAdd(Words x, Words factor, F sum) {
  return Simd::DotWords(x.bits, factor.bits, sum);
}

// The nearest integers of x * scale, all within 16 bits, in the low halves of lanes: the float's
// last bits, once 1.5 * 2^23 is added.
inline I RoundToWords(F x, F scale) {
  return Simd::FloatBits(Simd::Fma(x, scale, Simd::Set(12582912.0F)));
}

// rows.q to words; a row's scale is what a step of it is worth.
void NarrowQueries(const QueryRows& rows) {
  for (int32_t r = 0; r < rows.num_rows; ++r) {
    const float* q = rows.q + int64_t{r} * rows.dim;
    auto* words = reinterpret_cast<uint16_t*>(rows.q_words + int64_t{r} * rows.dim / 2);
    F largest = Simd::Zero();
    F sum = Simd::Zero();
    for (int32_t i = 0; i < rows.dim; i += 16) {
      const F magnitudes = Simd::Abs(Simd::Load(q + i));
      largest = Simd::Max(largest, magnitudes);
      sum = Simd::Add(sum, magnitudes);
    }
    const float of_largest = Simd::Largest(largest) / 32767;
    const float of_sum = Simd::Sum(sum) / kQuerySteps;
    const float step = of_largest > of_sum ? of_largest : of_sum;
    rows.q_steps[r] = step;
    const F scale = Simd::Set(step > 0 ? 1 / step : 0.0F);
    for (int32_t i = 0; i < rows.dim; i += 16) {
      Simd::StoreLowWords(words + i, RoundToWords(Simd::Load(q + i), scale));
    }
  }
}

// What lies at `elements` of the block that is read next, 512 bytes of it. Blocks are too short and
// too far from each other for the CPU to foresee: without this, memory delivers a fifth of what it
// can.
inline void FetchNext(const PageAttention& page, int64_t elements) {
  if (page.next != nullptr) {
#pragma GCC unroll 8
    for (int line = 0; line < 8; ++line) {
      __builtin_prefetch(page.next + elements + 32 * line, 0, 2);
    }
  }
}

// 16 keys from `token` on to halves [head_dim][16]; their largest magnitudes.
inline F TransposeKeys(const PageAttention& page, int token, uint16_t* halves) {
  const int head_dim = page.head_dim;
  const uint16_t* keys = page.k + token * head_dim;
  Simd::H largest[2] = {Simd::ZeroHalves(), Simd::ZeroHalves()};
  for (int i = 0; i < head_dim; i += 16) {
    FetchNext(page, token * head_dim + 16 * i);
    Simd::H columns[16];
    Simd::TransposeHalves(keys + i, head_dim, columns);
    const int count = head_dim - i < 16 ? head_dim - i : 16;
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      Simd::StoreHalves(halves + (i + j) * 16, columns[j]);
      if (j < count) {
        largest[j % 2] = Simd::LargerMagnitudes(largest[j % 2], columns[j]);
      }
    }
  }
  return Simd::ToFloat(Simd::LargerMagnitudes(largest[0], largest[1]));
}

// Keys in halves to words, k [head_dim / 2][page_tokens], and their steps [page_tokens]. What lies
// behind the positions that are written is not defined.
inline void NarrowKeys(const PageAttention& page, WordPair* k, float* steps) {
  alignas(64) uint16_t halves[kMaxDim * 16];
  for (int token = 0; token < page.num_written; token += 16) {
    const F largest = TransposeKeys(page, token, halves);
    Simd::Store(steps + token, Simd::Mul(largest, Simd::Set(1 / kKeySteps)));
    const F scale = Simd::Div(Simd::Set(kKeySteps), largest);
    const uint16_t* half = halves;
    WordPair* pairs = k + token;
#pragma GCC unroll 4
    for (int i = 0; i < page.head_dim; i += 2, half += 32, pairs += page.page_tokens) {
      const I low = RoundToWords(Simd::LoadHalf(half), scale);
      const I high = RoundToWords(Simd::LoadHalf(half + 16), scale);
      Simd::StoreInts(&pairs->bits, Simd::PairWords(low, high));
    }
  }
}

// Sums [kRows][kMaxPageTokens] of integers -> scores, in place.
template <int kRows>
inline void ScaleSums(const float* q_steps, const float* k_steps, int num_valid, float* sums) {
  for (int t = 0; t < num_valid; t += 16) {
    const F keys = Simd::Load(k_steps + t);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      float* sixteen = sums + r * kMaxPageTokens + t;
      const F whole = Simd::ToFloat(Simd::FloatBits(Simd::Load(sixteen)));
      Simd::Store(sixteen, Simd::Mul(whole, Simd::Mul(keys, Simd::Set(q_steps[r]))));
    }
  }
}

}  // namespace
