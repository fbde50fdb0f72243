// Attention of some query rows over a page of any codec, in exact sums of int16 products, two a
// lane. Softmax and the sum over pages are float32. For AVX-512 with VNNI.
//
// A key, a value, a query and a row's weights of one page each have a scale of their own. So a
// row's result does not depend on what is computed beside it.

namespace {

// o = o * scale + sums of integers * step
[[gnu::always_inline]] inline void AddSum(I sum, float step, float scale, float* o) {
  const F whole = Simd::ToFloat(sum);
  const F kept = Simd::Mul(Simd::Load(o), Simd::Set(scale));
  Simd::Store(o, Simd::Fma(whole, Simd::Set(step), kept));
}

// o = o * scales + steps * weights x v [page_tokens / 2][dim], of num_pairs pairs of tokens.
template <int kRows>
inline void AddWords(const WordPair* v, int32_t dim, int num_pairs, const WordPair* weights,
                     const WordWeights& of_rows, float* o) {
  alignas(64) float sums[kRows * kMaxPageTokens];
  for (int32_t first = 0; first < dim; first += kMaxPageTokens) {
    const int32_t count = dim - first < kMaxPageTokens ? dim - first : kMaxPageTokens;
    MultiplyColumns<kRows>(weights, kMaxPageTokens, v + first, dim, num_pairs, count, sums);
    for (int32_t i = 0; i < count; i += 16) {
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        AddSum(Simd::FloatBits(Simd::Load(sums + r * kMaxPageTokens + i)), of_rows.steps[r],
               of_rows.scales[r], o + int64_t{r} * dim + first + i);
      }
    }
  }
}

// A page in halves as pairs of int16: k [NumPairs(head_dim)][page_tokens],
// v [page_tokens / 2][dim].
struct HalfPage {
  const PageAttention& page;
  const WordPair* k;
  const float* k_steps;
  const WordPair* v;
  const float* v_steps;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float sums[kRows * kMaxPageTokens];
    alignas(64) WordPair weights[kRows * kMaxPageTokens];
    WordWeights of_rows;
    const QueryRows& rows = page.rows;
    const int64_t stride = rows.dim / 2;
    const auto* queries = reinterpret_cast<const WordPair*>(rows.q_words) + first * stride;
    MultiplyColumns<kRows>(queries, stride, k, page.page_tokens, NumPairs(page.head_dim), num_valid,
                           sums);
    const ScoreTerms terms = {rows.q_steps + first, k_steps, nullptr, nullptr};
    WeighSums<kRows>(rows, first, num_valid, num_valid, terms, v_steps, sums, weights,
                     of_rows);
    AddWords<kRows>(v, rows.dim, (num_valid + 3) / 4 * 2, weights, of_rows,
                    rows.o + int64_t{first} * rows.dim);
  }
};

void AttendPage(const PageAttention& page) {
  alignas(64) float k_steps[kMaxPageTokens];
  alignas(64) float v_steps[kMaxPageTokens];
  auto* k = reinterpret_cast<WordPair*>(page.buffers.k);
  auto* v = reinterpret_cast<WordPair*>(page.buffers.v);
  NarrowKeys(page, k, k_steps);
  NarrowValues(page, v, v_steps);
  ForRuns<kMaxRows>(page.rows, HalfPage{page, k, k_steps, v, v_steps});
}

// Turns scales of codes, in halves, into scales [page_tokens] of the int16 that stand for the
// codes.
inline void ScaleSteps(const uint16_t* scales, std::ptrdiff_t ahead, float word_step,
                       int page_tokens, float* steps) {
  for (int t = 0; t < page_tokens; t += 16) {
    __builtin_prefetch(reinterpret_cast<const uint8_t*>(scales + t) + ahead, 0, 2);
    Simd::Store(steps + t, Simd::Mul(Simd::LoadHalf(scales + t), Simd::Set(word_step)));
  }
}

// A page in codes: dequantised to pairs like HalfPage's, or read as it lies.
struct CodedPage {
  const CodedPageAttention& page;
  const float* k_steps;
  const float* v_steps;
  const WordPair* k;  // null: codes become pairs in registers
  const WordPair* v;

  template <int kRows>
  void Score(const WordPair* queries, int num_valid, float* sums) const {
    const int64_t stride = page.rows.dim / 2;
    if (k != nullptr) {
      MultiplyColumns<kRows>(queries, stride, k, page.page_tokens, page.rows.dim / 2, num_valid,
                             sums);
      return;
    }
    if constexpr (kRows <= 4) {
      WithKeyBits(page.k_bits, [&]<int kBits>(BitsOf<kBits>) {
        MultiplyCodes<kBits, kRows>(
            page.k_codes, page.ahead, MakeWordTable<kBits>(*page.k_book), page.page_tokens / 16,
            page.rows.dim, queries, stride, [&](int panel, I* of_panel) {
              for (int r = 0; r < kRows; ++r) {
                StoreSum(sums + r * kMaxPageTokens + 16 * panel, of_panel[r]);
              }
            });
      });
    }
  }

  template <int kRows>
  void Add(const WordPair* weights, const WordWeights& of_rows, float* o) const {
    const int64_t dim = page.rows.dim;
    if (v != nullptr) {
      AddWords<kRows>(v, dim, page.page_tokens / 2, weights, of_rows, o);
      return;
    }
    if constexpr (kRows <= 4) {
      WithValueBits(page.v_bits, [&]<int kBits>(BitsOf<kBits>) {
        MultiplyCodes<kBits, kRows>(
            page.v_codes, page.ahead, MakeWordTable<kBits>(*page.v_book), page.num_values,
            page.page_tokens, weights, kMaxPageTokens, [&](int panel, I* of_panel) {
              for (int r = 0; r < kRows; ++r) {
                AddSum(of_panel[r], of_rows.steps[r], of_rows.scales[r], o + r * dim + 16 * panel);
              }
            });
      });
    }
  }

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float sums[kRows * kMaxPageTokens];
    alignas(64) WordPair weights[kRows * kMaxPageTokens];
    WordWeights of_rows;
    const QueryRows& rows = page.rows;
    Score<kRows>(reinterpret_cast<const WordPair*>(rows.q_words) + first * int64_t{rows.dim / 2},
                 num_valid, sums);
    ScoreTerms terms = {rows.q_steps + first, k_steps, page.bias + first, nullptr};
    alignas(64) float starts[kRows * kMaxPageTokens];
    if (page.key_bias.products != nullptr || page.log_weights != nullptr) {
      StartScores<kRows>(page, first, starts);
      terms.starts = starts;
    }
    WeighSums<kRows>(rows, first, num_valid, page.page_tokens, terms, v_steps, sums,
                     weights, of_rows);
    Add<kRows>(weights, of_rows, rows.o + int64_t{first} * rows.dim);
  }
};

void AttendCodedPage(const CodedPageAttention& page) {
  alignas(64) float k_steps[kMaxPageTokens];
  alignas(64) float v_steps[kMaxPageTokens];
  WithKeyBits(page.k_bits, [&]<int kBits>(BitsOf<kBits>) {
    ScaleSteps(page.k_scales, page.ahead, WordStep<kBits>(*page.k_book), page.page_tokens, k_steps);
  });
  WithValueBits(page.v_bits, [&]<int kBits>(BitsOf<kBits>) {
    ScaleSteps(page.v_scales, page.ahead, WordStep<kBits>(*page.v_book), page.page_tokens, v_steps);
  });
  if (page.rows.num_rows < kManyRows) {
    ForRuns<4>(page.rows, CodedPage{page, k_steps, v_steps, nullptr, nullptr});
    return;
  }
  auto* k = reinterpret_cast<WordPair*>(page.buffers.k);
  auto* v = reinterpret_cast<WordPair*>(page.buffers.v);
  NarrowCodes(page, k, v);
  ForRuns<kMaxRows>(page.rows, CodedPage{page, k_steps, v_steps, k, v});
}

}  // namespace
