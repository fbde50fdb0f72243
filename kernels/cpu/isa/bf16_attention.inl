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
    ScorePage<kRows>(queries, stride, k, page.page_tokens, page.head_dim / 2, num_valid, weights);
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
    ScorePage<kRows>(queries, num_pairs, k, page.page_tokens, page.rows.dim / 2, num_valid, dots);
    ScaleScores<kRows>(page, num_valid, dots, weights);
    WeightCodedRows<kRows>(page, first, num_valid, weights, scales);
    AddPairs<kRows>(page.rows, first, v, page.page_tokens, weights, scales);
  }
};

// sums of panel p of `codes`: start(p, sums [kRows]), then all products with pairs x, then
// finish(p, sums).
template <int kBits, int kRows, typename Start, typename Finish>
inline void MultiplyCodes(const uint8_t* codes, const float* levels, int num_panels, int num_inner,
                          const uint32_t* x, int64_t stride, Start start, Finish finish) {
  const I table = MakeWordTable<kBits>(levels);
  for (int panel = 0; panel < num_panels; ++panel) {
    F sums[kRows];
    start(panel, sums);
    for (int first = 0; first < num_inner; first += kGroupInner<kBits>) {
      const uint32_t* factors = x + first / 2;
      UsePairs<kBits>(
          codes, table, [&](int pair, I values) __attribute__((always_inline)) {
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
              sums[r] = MultiplyAdd(values, LoadFactor(factors + r * stride + pair), sums[r]);
            }
          });
      codes += kGroupBytes<kBits>;
    }
    finish(panel, sums);
  }
}

// Codes become pairs in registers; each row's sums are formed as SpreadPage forms them.
struct CodedPage {
  const CodedPageAttention& page;

  template <int kBits, int kRows>
  void Score(const uint32_t* queries, float* dots) const {
    MultiplyCodes<kBits, kRows>(
        page.k_codes, page.k_levels, page.page_tokens / 16, page.rows.dim, queries,
        page.rows.dim / 2,
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
        page.v_codes, page.v_levels, page.num_values, page.page_tokens, weights,
        kMaxPageTokens,
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
    switch (page.k_bits) {
      case 2:
        Score<2, kRows>(queries, dots);
        break;
      case 3:
        Score<3, kRows>(queries, dots);
        break;
      case 4:
        Score<4, kRows>(queries, dots);
        break;
      default:
        Score<8, kRows>(queries, dots);
        break;
    }
    ScaleScores<kRows>(page, num_valid, dots, weights);
    WeightCodedRows<kRows>(page, first, num_valid, weights, scales);
    NarrowWeights<kRows>(weights, page.page_tokens, pairs);
    if (page.v_bits == 2) {
      Add<2, kRows>(first, pairs, scales);
    } else if (page.v_bits == 3) {
      Add<3, kRows>(first, pairs, scales);
    } else {
      Add<8, kRows>(first, pairs, scales);
    }
  }
};

void NarrowCodes(const CodedPageAttention& page, uint32_t* k, uint32_t* v) {
  const int32_t tokens = page.page_tokens;
  const int32_t dim = page.rows.dim;
  switch (page.k_bits) {
    case 2:
      NarrowPanels<2>(page.k_codes, page.k_levels, tokens / 16, dim, k, tokens);
      break;
    case 3:
      NarrowPanels<3>(page.k_codes, page.k_levels, tokens / 16, dim, k, tokens);
      break;
    case 4:
      NarrowPanels<4>(page.k_codes, page.k_levels, tokens / 16, dim, k, tokens);
      break;
    default:
      NarrowPanels<8>(page.k_codes, page.k_levels, tokens / 16, dim, k, tokens);
      break;
  }
  if (page.v_bits == 2) {
    NarrowPanels<2>(page.v_codes, page.v_levels, page.num_values, tokens, v, dim);
  } else if (page.v_bits == 3) {
    NarrowPanels<3>(page.v_codes, page.v_levels, page.num_values, tokens, v, dim);
  } else {
    NarrowPanels<8>(page.v_codes, page.v_levels, page.num_values, tokens, v, dim);
  }
}

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
