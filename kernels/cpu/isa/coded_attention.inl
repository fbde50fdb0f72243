// Attention of some query rows over a page in codes. Codes are dequantised to floats in registers,
// 16 lanes of one panel at a time, and meet all rows of the GQA group there. The order of every sum
// depends on its own row alone. For any Simd of 16 lanes.

namespace {

// The levels of codes of kBits as a table of 8 or 16.
template <int kBits>
inline Simd::Table MakeLevels(const float* levels) {
  if constexpr (kBits == 8) {
    return Simd::Zero();
  } else if constexpr (kBits == 2) {  // twice: the lookup reads a third bit, of the next code
    const float twice[8] = {levels[0], levels[1], levels[2], levels[3],
                            levels[0], levels[1], levels[2], levels[3]};
    return Simd::template MakeTable<8>(twice);
  } else {
    return Simd::template MakeTable<(kBits == 4 ? 16 : 8)>(levels);
  }
}

// Calls use(inner, values) for four inner codes: those from bit kShift on of the four bytes of each
// lane.
template <int kBits, int kShift, typename Use>
[[gnu::always_inline]] inline void UseFour(I codes, Simd::Table table, int inner, Use use) {
  constexpr int kLevels = kBits == 4 ? 16 : 8;
  use(inner, Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift>(codes)));
  use(inner + 1, Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift + 8>(codes)));
  use(inner + 2, Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift + 16>(codes)));
  use(inner + 3, Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift + 24>(codes)));
}

// Calls use(inner, values) for one group, 16 lanes x GroupInner, in order. Inlined by force: out of
// line, the sums of a product live in memory, and a page of 3 bits takes up to twice the time.
template <int kBits, typename Use>
[[gnu::always_inline]] inline void UseGroup(const uint8_t* group, Simd::Table table, Use use) {
  if constexpr (kBits == 8) {
    for (int row = 0; row < 8; ++row) {
      const I codes = Simd::LoadInts(group + 64 * row);
      use(4 * row, Simd::SignedByte<0>(codes));
      use(4 * row + 1, Simd::SignedByte<1>(codes));
      use(4 * row + 2, Simd::SignedByte<2>(codes));
      use(4 * row + 3, Simd::SignedByte<3>(codes));
    }
  } else if constexpr (kBits == 2) {
    const I codes = Simd::LoadInts(group);
    UseFour<2, 0>(codes, table, 0, use);
    UseFour<2, 2>(codes, table, 4, use);
    UseFour<2, 4>(codes, table, 8, use);
    UseFour<2, 6>(codes, table, 12, use);
  } else {
    constexpr int kWholeRows = kBits == 3 ? 3 : 4;
    for (int row = 0; row < kWholeRows; ++row) {
      const I codes = Simd::LoadInts(group + 64 * row);
      UseFour<kBits, 0>(codes, table, 8 * row, use);
      UseFour<kBits, kBits>(codes, table, 8 * row + 4, use);
    }
    if constexpr (kBits == 3) {
      const I codes = SpareRow(group);
      UseFour<3, 0>(codes, table, 24, use);
      UseFour<3, 3>(codes, table, 28, use);
    }
  }
}

// For each panel of `codes`, of num_inner inner codes, calls start(panel, sums [kRows]), adds all
// products, and calls finish(panel, sums). One panel at a time: the next one's products fill the
// waits for this one's.
template <int kBits, int kRows, typename Start, typename Finish>
inline void MultiplyPanels(const uint8_t* codes, const float* levels, int num_panels, int num_inner,
                           const float* x, int64_t stride, Start start, Finish finish) {
  const Simd::Table table = MakeLevels<kBits>(levels);
  for (int panel = 0; panel < num_panels; ++panel) {
    F sums[kRows];
    start(panel, sums);
    for (int first = 0; first < num_inner; first += kGroupInner<kBits>) {
      const float* columns = x + first;
      UseGroup<kBits>(
          codes, table, [&](int inner, F values) __attribute__((always_inline)) {
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
              sums[r] = Simd::Fma(values, Simd::Set(columns[r * stride + inner]), sums[r]);
            }
          });
      codes += kGroupBytes<kBits>;
    }
    finish(panel, sums);
  }
}

// scores [kRows][kMaxPageTokens] += K x q
template <int kBits, int kRows>
void ScoreCoded(const CodedPageAttention& page, int32_t first, float* scores) {
  MultiplyPanels<kBits, kRows>(
      page.k_codes, page.k_book->levels, page.page_tokens / 16, page.rows.dim,
      page.rows.q + int64_t{first} * page.rows.dim, page.rows.dim,
      [](int /*panel*/, F* sums) {
        for (int r = 0; r < kRows; ++r) {
          sums[r] = Simd::Zero();
        }
      },
      [&](int panel, F* sums) {
        const F scales = Simd::LoadHalf(page.k_scales + 16 * panel);
        for (int r = 0; r < kRows; ++r) {
          float* sixteen = scores + r * kMaxPageTokens + 16 * panel;
          Simd::Store(sixteen, Simd::Fma(sums[r], scales, Simd::Load(sixteen)));
        }
      });
}

// o = o * scale + weights x V
template <int kBits, int kRows>
void AddCodedValues(const CodedPageAttention& page, int32_t first, const float* weights,
                    const float* scales) {
  const int64_t dim = page.rows.dim;
  float* o = page.rows.o + first * dim;
  MultiplyPanels<kBits, kRows>(
      page.v_codes, page.v_book->levels, page.num_values, page.page_tokens, weights, kMaxPageTokens,
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

// Dequantises codes in registers.
struct CodedPage {
  const CodedPageAttention& page;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    StartScores<kRows>(page, first, weights);
    switch (page.k_bits) {
      case 2:
        ScoreCoded<2, kRows>(page, first, weights);
        break;
      case 3:
        ScoreCoded<3, kRows>(page, first, weights);
        break;
      case 4:
        ScoreCoded<4, kRows>(page, first, weights);
        break;
      default:
        ScoreCoded<8, kRows>(page, first, weights);
        break;
    }
    WeightCodedRows<kRows>(page, first, num_valid, weights, scales);
    if (page.v_bits == 2) {
      AddCodedValues<2, kRows>(page, first, weights, scales);
    } else if (page.v_bits == 3) {
      AddCodedValues<3, kRows>(page, first, weights, scales);
    } else {
      AddCodedValues<8, kRows>(page, first, weights, scales);
    }
  }
};

// Dequantises panels of codes to floats, without their scales: lanes of panel p go to
// out[..][16 p ..].
template <int kBits>
void WidenPanels(const uint8_t* codes, const float* levels, int num_panels, int num_inner,
                 float* out, int64_t stride) {
  const Simd::Table table = MakeLevels<kBits>(levels);
  for (int panel = 0; panel < num_panels; ++panel) {
    for (int first = 0; first < num_inner; first += kGroupInner<kBits>) {
      float* to = out + first * stride + 16 * panel;
      UseGroup<kBits>(
          codes, table, [&](int inner, F values) __attribute__((always_inline)) {
            Simd::Store(to + inner * stride, values);
          });
      codes += kGroupBytes<kBits>;
    }
  }
}

void WidenCodes(const CodedPageAttention& page) {
  const PageBuffers& to = page.buffers;
  const int32_t tokens = page.page_tokens;
  const int32_t dim = page.rows.dim;
  switch (page.k_bits) {
    case 2:
      WidenPanels<2>(page.k_codes, page.k_book->levels, tokens / 16, dim, to.k, tokens);
      break;
    case 3:
      WidenPanels<3>(page.k_codes, page.k_book->levels, tokens / 16, dim, to.k, tokens);
      break;
    case 4:
      WidenPanels<4>(page.k_codes, page.k_book->levels, tokens / 16, dim, to.k, tokens);
      break;
    default:
      WidenPanels<8>(page.k_codes, page.k_book->levels, tokens / 16, dim, to.k, tokens);
      break;
  }
  if (page.v_bits == 2) {
    WidenPanels<2>(page.v_codes, page.v_book->levels, page.num_values, tokens, to.v, dim);
  } else if (page.v_bits == 3) {
    WidenPanels<3>(page.v_codes, page.v_book->levels, page.num_values, tokens, to.v, dim);
  } else {
    WidenPanels<8>(page.v_codes, page.v_book->levels, page.num_values, tokens, to.v, dim);
  }
}

// Attends to a page whose codes were dequantised into the page's buffers. Sums are formed in the
// order of CodedPage.
struct WidenedPage {
  const CodedPageAttention& page;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float dots[kRows * kMaxPageTokens];
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    const int64_t dim = page.rows.dim;
    StartScores<kRows>(page, first, weights);
    MultiplyColumns<kRows>(page.rows.q + first * dim, dim, page.buffers.k, page.page_tokens,
                           page.rows.dim, num_valid, dots);
    for (int t = 0; t < num_valid; t += 16) {
      const F k_scales = Simd::LoadHalf(page.k_scales + t);
      for (int r = 0; r < kRows; ++r) {
        float* sixteen = weights + r * kMaxPageTokens + t;
        const F sums = Simd::Load(dots + r * kMaxPageTokens + t);
        Simd::Store(sixteen, Simd::Fma(sums, k_scales, Simd::Load(sixteen)));
      }
    }
    WeightCodedRows<kRows>(page, first, num_valid, weights, scales);
    AddPage<kRows>(page.buffers.v, dim, page.page_tokens, weights, scales,
                   page.rows.o + first * dim, dim);
  }
};

void AttendCodedPage(const CodedPageAttention& page) {
  if (page.rows.num_rows < kManyRows) {
    ForRuns<4>(page.rows, CodedPage{page});
    return;
  }
  WidenCodes(page);
  ForRuns<kMaxRows>(page.rows, WidenedPage{page});
}

}  // namespace
