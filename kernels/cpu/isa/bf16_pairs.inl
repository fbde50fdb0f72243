// The elements of multiply_rows.inl and code_pairs.inl as pairs of bfloat16 in 32-bit lanes, two
// products each; values and rows as such. For AVX-512 with BF16.
//
// Pairs are numbers (0, 2) and (1, 3) of each four: as codes are shifted out of bytes.

namespace {

using Pair = uint32_t;

inline I AsPairs(I x) { return x; }
inline I LoadSixteen(const uint32_t* p) {
  return Simd::LoadInts(reinterpret_cast<const uint8_t*>(p));
}
inline I LoadFactor(const uint32_t* p) { return Simd::SetInt(static_cast<int32_t>(*p)); }
inline F ZeroSum(I /*x*/) { return Simd::Zero(); }
inline F MultiplyAdd(I x, I factor, F sum) { return Simd::DotPairs(x, factor, sum); }

// 16 floats as 8 pairs.
inline void StorePairs(uint32_t* p, F x) {
  Simd::StoreHalves(reinterpret_cast<uint16_t*>(p), Simd::NarrowToBFloat16(Simd::SwapMiddles(x)));
}

// Rows of q from `first` on, to pairs [kRows][dim / 2].
template <int kRows>
inline void PairQueries(const QueryRows& rows, int32_t first, uint32_t* pairs) {
  const float* q = rows.q + int64_t{first} * rows.dim;
  for (int i = 0; i < kRows * rows.dim; i += 16) {
    StorePairs(pairs + i / 2, Simd::Load(q + i));
  }
}

// Weights [kRows][kMaxPageTokens] to pairs [kRows][kMaxPageTokens], the second half of a row
// unused.
template <int kRows>
inline void NarrowWeights(const float* weights, int count, uint32_t* pairs) {
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < count; t += 16) {
      StorePairs(pairs + r * kMaxPageTokens + t / 2, Simd::Load(weights + r * kMaxPageTokens + t));
    }
  }
}

// Values in halves to pairs, v [page_tokens / 2][dim]; zero where nothing is written.
inline void NarrowValues(const PageAttention& page, uint32_t* v) {
  const int32_t dim = page.rows.dim;
  for (int token = 0; token < page.num_written; token += 4) {
    const uint16_t* values = page.v + token * page.head_dim;
    const int written = page.num_written - token;
    for (int i = 0; i < page.head_dim; i += 64) {
      FetchNext(page, (page.page_tokens + token) * page.head_dim + 4 * i);
    }
    for (int i = 0; i < dim; i += 16) {
      const int count = page.head_dim - i;
      F four[4];
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        four[t] = Simd::LoadFirstHalves(values + t * page.head_dim + i, t < written ? count : 0);
      }
      uint32_t* pairs = v + token / 2 * dim + i;
      Simd::StoreInts(pairs, Simd::InterleaveWords(Simd::NarrowToBFloat16(four[0], four[2])));
      Simd::StoreInts(pairs + dim, Simd::InterleaveWords(Simd::NarrowToBFloat16(four[1], four[3])));
    }
  }
}

// The levels of codes of kBits as a table of LookUpWords.
template <int kBits>
inline I MakeWordTable(const float* levels) {
  if constexpr (kBits == 8) {
    return Simd::SetInt(0);
  } else {
    constexpr int kEntries = kBits == 4 ? 16 : 8;
    const F all = Simd::LookUp<kEntries>(MakeLevels<kBits>(levels), Simd::Lanes());
    return Simd::NarrowToBFloat16(all, all);
  }
}

template <int kBits>
inline I MakeKeyTable(const float* levels) {
  return MakeWordTable<kBits>(levels);
}
template <int kBits>
inline I MakeValueTable(const float* levels) {
  return MakeWordTable<kBits>(levels);
}

// Bytes 0 and 2 of each lane, signed, as a pair; they need no rounding.
inline I BytesToPairs(I codes) {
  const I low = Simd::FloatBits(Simd::SignedByte<0>(codes));
  const I high = Simd::FloatBits(Simd::SignedByte<2>(codes));
  return Simd::OrInt(Simd::ShiftRight<16>(low), high);
}

}  // namespace
