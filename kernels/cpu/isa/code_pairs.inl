// Turns codes of a page into pairs of int16 in 32-bit lanes. The files before this one define what
// a pair is: Pair, AsPairs, MakeWordTable, BytesToPairs. For AVX-512.
//
// The pairs are elements (0, 2) and (1, 3) of each four, the order in which codes are shifted out
// of bytes.

namespace {

// Calls use(pair, values) for two pairs of codes: those from bit kShift on of the four bytes of
// each lane.
template <int kShift, typename Use>
[[gnu::always_inline]] inline void UseTwoPairs(I codes, I table, int pair, Use use) {
  use(pair, Simd::LookUpWords(table, Simd::ShiftRight<kShift>(codes)));
  use(pair + 1, Simd::LookUpWords(table, Simd::ShiftRight<kShift + 8>(codes)));
}

// Calls use(pair, values) for the pairs of one group of codes, in order. Inlined by force: out of
// line, the sums of a product live in memory.
template <int kBits, typename Use>
[[gnu::always_inline]] inline void UsePairs(const uint8_t* group, I table, Use use) {
  if constexpr (kBits == 8) {
    for (int row = 0; row < 8; ++row) {
      const I codes = Simd::LoadInts(group + 64 * row);
      use(2 * row, BytesToPairs(codes));
      use(2 * row + 1, BytesToPairs(Simd::ShiftRight<8>(codes)));
    }
  } else if constexpr (kBits == 2) {
    const I codes = Simd::LoadInts(group);
    UseTwoPairs<0>(codes, table, 0, use);
    UseTwoPairs<2>(codes, table, 2, use);
    UseTwoPairs<4>(codes, table, 4, use);
    UseTwoPairs<6>(codes, table, 6, use);
  } else {
    constexpr int kWholeRows = kBits == 3 ? 3 : 4;
    for (int row = 0; row < 4; ++row) {
      const I codes = row < kWholeRows ? Simd::LoadInts(group + 64 * row) : SpareRow(group);
      use(4 * row, Simd::LookUpWords(table, codes));
      use(4 * row + 1, Simd::LookUpWords(table, Simd::ShiftRight<8>(codes)));
      use(4 * row + 2, Simd::LookUpWords(table, Simd::ShiftRight<kBits>(codes)));
      use(4 * row + 3, Simd::LookUpWords(table, Simd::ShiftRight<kBits + 8>(codes)));
    }
  }
}

// Prefetches the memory `ahead` bytes behind a group of codes. Asking for a whole block at once
// would make its lines wait for each other.
template <int kBits>
[[gnu::always_inline]] inline void FetchGroup(const uint8_t* group, std::ptrdiff_t ahead) {
#pragma GCC unroll 8
  for (int line = 0; line < kGroupBytes<kBits>; line += 64) {
    __builtin_prefetch(group + ahead + line, 0, 2);
  }
}

// Dequantises panels of codes to pairs, without their scales: lanes of panel p go to
// out[..][16 p ..].
template <int kBits>
void NarrowPanels(const uint8_t* codes, std::ptrdiff_t ahead, I table, int num_panels,
                  int num_inner, Pair* out, int64_t stride) {
  for (int panel = 0; panel < num_panels; ++panel) {
    for (int first = 0; first < num_inner; first += kGroupInner<kBits>) {
      Pair* to = out + first / 2 * stride + 16 * panel;
      FetchGroup<kBits>(codes, ahead);
      UsePairs<kBits>(
          codes, table, [&](int pair, I values) __attribute__((always_inline)) {
            Simd::StoreInts(reinterpret_cast<uint32_t*>(to + pair * stride), values);
          });
      codes += kGroupBytes<kBits>;
    }
  }
}

// Calls finish(p, sums [kRows]) with all products of panel p of `codes` and pairs x. Sums are
// formed in two chains, because few rows do not keep the processor busy while one product waits for
// another. They are sums of integers, so the result is the same.
template <int kBits, int kRows, typename Finish>
inline void MultiplyCodes(const uint8_t* codes, std::ptrdiff_t ahead, I table, int num_panels,
                          int num_inner, const Pair* x, int64_t stride, Finish finish) {
  for (int panel = 0; panel < num_panels; ++panel) {
    I sums[kRows];
    I others[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      sums[r] = others[r] = Simd::SetInt(0);
    }
    for (int first = 0; first < num_inner; first += kGroupInner<kBits>) {
      const Pair* factors = x + first / 2;
      FetchGroup<kBits>(codes, ahead);
      UsePairs<kBits>(
          codes, table, [&](int pair, I values) __attribute__((always_inline)) {
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
              I& sum = pair % 2 == 0 ? sums[r] : others[r];
              sum = MultiplyAdd(AsPairs(values), LoadFactor(factors + r * stride + pair), sum);
            }
          });
      codes += kGroupBytes<kBits>;
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      sums[r] = Simd::AddInt(sums[r], others[r]);
    }
    finish(panel, sums);
  }
}

template <int kBits>
struct BitsOf {};

// Calls use(BitsOf<bits>()) for K, whose codes have 2, 3, 4 or 8 bits.
template <typename Use>
[[gnu::always_inline]] inline void WithKeyBits(int bits, Use use) {
  switch (bits) {
    case 2:
      use(BitsOf<2>());
      break;
    case 3:
      use(BitsOf<3>());
      break;
    case 4:
      use(BitsOf<4>());
      break;
    default:
      use(BitsOf<8>());
      break;
  }
}

// Calls use(BitsOf<bits>()) for V, whose codes have 2, 3 or 8 bits.
template <typename Use>
[[gnu::always_inline]] inline void WithValueBits(int bits, Use use) {
  if (bits == 2) {
    use(BitsOf<2>());
  } else if (bits == 3) {
    use(BitsOf<3>());
  } else {
    use(BitsOf<8>());
  }
}

// Dequantises a page's codes to pairs: k [dim / 2][page_tokens], v [page_tokens / 2][dim].
void NarrowCodes(const CodedPageAttention& page, Pair* k, Pair* v) {
  const int32_t tokens = page.page_tokens;
  const int32_t dim = page.rows.dim;
  WithKeyBits(page.k_bits, [&]<int kBits>(BitsOf<kBits>) {
    NarrowPanels<kBits>(page.k_codes, page.ahead, MakeWordTable<kBits>(*page.k_book), tokens / 16,
                        dim, k, tokens);
  });
  WithValueBits(page.v_bits, [&]<int kBits>(BitsOf<kBits>) {
    NarrowPanels<kBits>(page.v_codes, page.ahead, MakeWordTable<kBits>(*page.v_book),
                        page.num_values, tokens, v, dim);
  });
}

}  // namespace
