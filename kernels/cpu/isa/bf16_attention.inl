// A page of any codec against some query rows, in products of pairs of bfloat16 with float32 sums;
// but scores of keys in halves are sums of integers: word_keys.inl. For AVX-512 with BF16.

namespace {

// o = o * scales + weights x v, pairs [page_tokens / 2][dim] that are spread out.
template <int kRows>
inline void AddPairs(const QueryRows& rows, int32_t first, const uint32_t* v, int num_tokens,
                     const float* weights, const float* scales) {
  alignas(64) uint32_t pairs[kRows * kMaxPageTokens];
  NarrowWeights<kRows>(weights, num_tokens, pairs);
  AddPage<kRows>(v, rows.dim, num_tokens / 2, pairs, scales, rows.o + int64_t{first} * rows.dim,
                 rows.dim);
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

// Keys are words in k [head_dim / 2][page_tokens], values pairs in v.
struct HalfPage {
  const PageAttention& page;
  const WordPair* k;
  const float* k_steps;
  const uint32_t* v;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    const QueryRows& rows = page.rows;
    const int64_t stride = rows.dim / 2;
    const auto* queries = reinterpret_cast<const WordPair*>(rows.q_words) + first * stride;
    MultiplyColumns<kRows>(queries, stride, k, page.page_tokens, NumPairs(page.head_dim), num_valid,
                           weights);
    ScaleSums<kRows>(rows.q_steps + first, k_steps, num_valid, weights);
    if (page.keep != kAllKept) {
      for (int r = 0; r < kRows; ++r) {
        DropScores(page.keep, num_valid, weights + r * kMaxPageTokens);
      }
    }
    WeightRows<kRows>(rows, first, num_valid, weights, scales);
    AddPairs<kRows>(rows, first, v, (num_valid + 3) / 4 * 4, weights, scales);
  }
};

void AttendPage(const PageAttention& page) {
  auto* k = reinterpret_cast<WordPair*>(page.buffers.k);
  float* k_steps = page.buffers.k + page.page_tokens * page.rows.dim / 2;
  auto* v = reinterpret_cast<uint32_t*>(page.buffers.v);
  NarrowKeys(page, k, k_steps);
  NarrowValues(page, v);
  ForRuns<kMaxRows>(page.rows, page.keep, HalfPage{page, k, k_steps, v});
}

// scores += K x q, K's scales applied to whole sums.
template <int kRows>
inline void ScaleScores(const CodedPageAttention& page, int num_valid, const float* dots,
                        float* scores) {
  for (int t = 0; t < num_valid; t += 16) {
    const F k_scales = Simd::LoadHalf(page.k_scales + t);
    for (int r = 0; r < kRows; ++r) {
      float* sixteen = scores + r * kMaxPageTokens + t;
      const F sums = Simd::Load(dots + r * kMaxPageTokens + t);
      Simd::Store(sixteen, Simd::Fma(sums, k_scales, Simd::Load(sixteen)));
    }
  }
}

// Codes are pairs in k [dim / 2][page_tokens] and v [page_tokens / 2][dim].
struct SpreadPage {
  const CodedPageAttention& page;
  const uint32_t* k;
  const uint32_t* v;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) uint32_t queries[kRows * kMaxDim / 2];
    alignas(64) float dots[kRows * kMaxPageTokens];
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    const int64_t num_pairs = page.rows.dim / 2;
    PairQueries<kRows>(page.rows, first, queries);
    StartScores<kRows>(page, first, weights);
    MultiplyColumns<kRows>(queries, num_pairs, k, page.page_tokens, page.rows.dim / 2, num_valid,
                           dots);
    ScaleScores<kRows>(page, num_valid, dots, weights);
    WeightCodedRows<kRows>(page, first, num_valid, weights, scales);
    AddPairs<kRows>(page.rows, first, v, page.page_tokens, weights, scales);
  }
};

// Codes become pairs in registers; each row's sums are formed as SpreadPage forms them.
struct CodedPage {
  const CodedPageAttention& page;

  template <int kBits, int kRows>
  void Score(const uint32_t* queries, float* dots) const {
    MultiplyCodes<kBits, kRows>(
        page.k_codes, MakeKeyTable<kBits>(page.k_levels), page.page_tokens / 16, page.rows.dim,
        queries, page.rows.dim / 2,
        [](int /*panel*/, F* sums) {
          for (int r = 0; r < kRows; ++r) {
            sums[r] = Simd::Zero();
          }
        },
        [&](int panel, F* sums) {
          for (int r = 0; r < kRows; ++r) {
            Simd::Store(dots + r * kMaxPageTokens + 16 * panel, sums[r]);
          }
        });
  }
  template <int kBits, int kRows>
  void Add(int32_t first, const uint32_t* weights, const float* scales) const {
    const int64_t dim = page.rows.dim;
    float* o = page.rows.o + first * dim;
    MultiplyCodes<kBits, kRows>(
        page.v_codes, MakeValueTable<kBits>(page.v_levels), page.num_values, page.page_tokens,
        weights, kMaxPageTokens,
        [&](int panel, F* sums) {
          for (int r = 0; r < kRows; ++r) {
            sums[r] = Simd::Mul(Simd::Load(o + r * dim + 16 * panel), Simd::Set(scales[r]));
          }
        },
        [&](int panel, F* sums) {
          for (int r = 0; r < kRows; ++r) {
            Simd::Store(o + r * dim + 16 * panel, sums[r]);
          }
        });
  }

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) uint32_t queries[kRows * kMaxDim / 2];
    alignas(64) float dots[kRows * kMaxPageTokens];
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) uint32_t pairs[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    PairQueries<kRows>(page.rows, first, queries);
    StartScores<kRows>(page, first, weights);
    WithKeyBits(page.k_bits, [&]<int kBits>(BitsOf<kBits>) { Score<kBits, kRows>(queries, dots); });
    ScaleScores<kRows>(page, num_valid, dots, weights);
    WeightCodedRows<kRows>(page, first, num_valid, weights, scales);
    NarrowWeights<kRows>(weights, page.page_tokens, pairs);
    WithValueBits(page.v_bits,
                  [&]<int kBits>(BitsOf<kBits>) { Add<kBits, kRows>(first, pairs, scales); });
  }
};

void AttendCodedPage(const CodedPageAttention& page) {
  for (int32_t at = 0; page.next != nullptr && at < page.next_bytes; at += 64) {
    __builtin_prefetch(page.next + at, 0, 2);
  }
  if (page.rows.num_rows < kManyRows) {
    ForRuns<4>(page.rows, kAllKept, CodedPage{page});
    return;
  }
  auto* k = reinterpret_cast<uint32_t*>(page.buffers.k);
  auto* v = reinterpret_cast<uint32_t*>(page.buffers.v);
  NarrowCodes(page, k, v);
  ForRuns<kMaxRows>(page.rows, kAllKept, SpreadPage{page, k, v});
}

}  // namespace
