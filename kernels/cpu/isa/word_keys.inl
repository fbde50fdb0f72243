// Scores of keys in halves as exact sums of int16 products, pairs in 32-bit lanes. Each key and
// each query has its own scale. Pairs are elements (0, 2) and (1, 3) of each four, as in
// code_pairs.inl. For AVX-512 with VNNI.

namespace {

constexpr int kMaxDim = kMaxHeadDim;

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
inline I ZeroSum(Words /*x*/) { return Simd::SetInt(0); }
inline I MultiplyAdd(Words x, Words factor, I sum) {
  return Simd::DotWords(x.bits, factor.bits, sum);
}
inline void StoreSum(float* p, I sum) { Simd::StoreInts(reinterpret_cast<uint32_t*>(p), sum); }

// The nearest integers of x * scale, all within 16 bits, in the low halves of lanes: the float's
// last bits, once 1.5 * 2^23 is added.
inline I RoundToWords(F x, F scale) {
  return Simd::FloatBits(Simd::Fma(x, scale, Simd::Set(12582912.0F)));
}

void NarrowQueries(const QueryWords& queries) {
  const int32_t dim = queries.dim;
  for (int32_t r = 0; r < queries.num_rows; ++r) {
    const float* q = queries.q + int64_t{r} * dim;
    auto* words = reinterpret_cast<uint16_t*>(queries.words + int64_t{r} * dim / 2);
    F largest = Simd::Zero();
    F sum = Simd::Zero();
    for (int32_t i = 0; i < dim; i += 16) {
      const F magnitudes = Simd::Abs(Simd::Load(q + i));
      largest = Simd::Max(largest, magnitudes);
      sum = Simd::Add(sum, magnitudes);
    }
    const float of_largest = Simd::Largest(largest) / 32767;
    const float of_sum = Simd::Sum(sum) / kQuerySteps;
    const float step = of_largest > of_sum ? of_largest : of_sum;
    queries.steps[r] = step;
    const F scale = Simd::Set(step > 0 ? 1 / step : 0.0F);
    for (int32_t i = 0; i < dim; i += 16) {
      Simd::StoreLowWords(words + i, RoundToWords(Simd::SwapMiddles(Simd::Load(q + i)), scale));
    }
  }
}

// Prefetches 512 bytes at `elements` of the block that is read next. Blocks are too short and too
// far apart for the CPU to foresee: without this, memory delivers a fifth of what it can.
inline void FetchNext(const PageAttention& page, int64_t elements) {
  if (page.next != nullptr) {
#pragma GCC unroll 8
    for (int line = 0; line < 8; ++line) {
      __builtin_prefetch(page.next + elements + 32 * line, 0, 2);
    }
  }
}

// Transposes 16 keys from `token` on to halves [head_dim][16]. Returns their largest magnitudes.
inline F TransposeKeys(const PageAttention& page, int token, uint16_t* halves) {
  const int head_dim = page.head_dim;
  const uint16_t* keys = page.k + token * head_dim;
  __m512i wide = _mm512_setzero_si512();
  int i = 0;
  for (; i + 32 <= head_dim; i += 32) {
    FetchNext(page, token * head_dim + 16 * i);
    FetchNext(page, token * head_dim + 16 * i + 256);
    wide = TransposeWide(keys + i, head_dim, halves + i * 16, wide);
  }
  Simd::H largest =
      _mm256_max_epu16(_mm512_castsi512_si256(wide), _mm512_extracti64x4_epi64(wide, 1));
  for (; i < head_dim; i += 16) {
    FetchNext(page, token * head_dim + 16 * i);
    Simd::H columns[16];
    Simd::TransposeHalves(keys + i, head_dim, columns);
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      Simd::StoreHalves(halves + (i + j) * 16, columns[j]);
      if (i + j < head_dim) {
        largest = Simd::LargerMagnitudes(largest, columns[j]);
      }
    }
  }
  return Simd::ToFloat(largest);
}

// Pairs of a key; those beyond head_dim meet zeros of the query.
inline int NumPairs(int head_dim) { return (head_dim + 3) / 4 * 2; }

// Turns keys in halves into pairs of int16, k [NumPairs(head_dim)][page_tokens], with scales
// [page_tokens]. Elements behind the positions that are written are undefined.
inline void NarrowKeys(const PageAttention& page, WordPair* k, float* steps) {
  alignas(64) uint16_t halves[kMaxDim * 16];
  for (int token = 0; token < page.num_written; token += 16) {
    const F largest = TransposeKeys(page, token, halves);
    Simd::Store(steps + token, Simd::Mul(largest, Simd::Set(1 / kKeySteps)));
    const F scale = Simd::Div(Simd::Set(kKeySteps), largest);
    const uint16_t* half = halves;
    WordPair* pairs = k + token;
#pragma GCC unroll 2
    for (int i = 0; i < page.head_dim; i += 4, half += 64, pairs += 2 * page.page_tokens) {
      I words[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        words[j] = RoundToWords(Simd::LoadHalf(half + 16 * j), scale);
      }
      Simd::StoreInts(&pairs->bits, Simd::PairWords(words[0], words[2]));
      Simd::StoreInts(&pairs[page.page_tokens].bits, Simd::PairWords(words[1], words[3]));
    }
  }
}

}  // namespace
