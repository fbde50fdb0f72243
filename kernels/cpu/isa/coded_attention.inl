// A page in codes against some query rows: codes become floats in registers, 16 lanes of one panel
// at a time, and meet all rows of the GQA group there. For any Simd of 16 lanes; the order of every
// sum depends on its own row alone.

namespace {

// Row 3 of a group of 3-bit codes, from bits 6-7 of the other three.
inline I SpareRow(const uint8_t* group) {
  const I row0 = Simd::AndInt(Simd::ShiftRight<6>(Simd::LoadInts(group)), 0x03030303);
  const I row1 = Simd::AndInt(Simd::ShiftRight<4>(Simd::LoadInts(group + 64)), 0x0c0c0c0c);
  const I row2 = Simd::AndInt(Simd::ShiftRight<2>(Simd::LoadInts(group + 128)), 0x30303030);
  return Simd::OrInt(Simd::OrInt(row0, row1), row2);
}

// sums[r] += value * x[r][inner]
template <int kRows>
inline void AddInner(F value, const float* x, int64_t stride, F* sums) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    sums[r] = Simd::Fma(value, Simd::Set(x[r * stride]), sums[r]);
  }
}

// Four inner codes, of bits kShift.. of the four bytes of each lane.
template <int kBits, int kShift, int kRows>
inline void AddFour(I codes, Simd::Table table, const float* x, int64_t stride, F* sums) {
  constexpr int kLevels = 1 << kBits;
  AddInner<kRows>(Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift>(codes)), x, stride, sums);
  AddInner<kRows>(Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift + 8>(codes)), x + 1, stride,
                  sums);
  AddInner<kRows>(Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift + 16>(codes)), x + 2, stride,
                  sums);
  AddInner<kRows>(Simd::LookUp<kLevels>(table, Simd::ShiftRight<kShift + 24>(codes)), x + 3, stride,
                  sums);
}

// One group, 16 lanes x 32 inner: sums [kRows] += codes x (rows of x, `stride` apart). Inlined by
// force: out of line, the sums live in memory, and a page of 3 bits takes up to twice the time.
template <int kBits, int kRows>
[[gnu::always_inline]] inline void AddGroup(const uint8_t* group, Simd::Table table, const float* x, int64_t stride,
                     F* sums) {
  if constexpr (kBits == 8) {
    for (int row = 0; row < 8; ++row) {
      const I codes = Simd::LoadInts(group + 64 * row);
      const float* four = x + 4 * row;
      AddInner<kRows>(Simd::SignedByte<0>(codes), four, stride, sums);
      AddInner<kRows>(Simd::SignedByte<1>(codes), four + 1, stride, sums);
      AddInner<kRows>(Simd::SignedByte<2>(codes), four + 2, stride, sums);
      AddInner<kRows>(Simd::SignedByte<3>(codes), four + 3, stride, sums);
    }
  } else {
    constexpr int kWholeRows = kBits == 3 ? 3 : 4;
    for (int row = 0; row < kWholeRows; ++row) {
      const I codes = Simd::LoadInts(group + 64 * row);
      AddFour<kBits, 0, kRows>(codes, table, x + 8 * row, stride, sums);
      AddFour<kBits, kBits, kRows>(codes, table, x + 8 * row + 4, stride, sums);
    }
    if constexpr (kBits == 3) {
      const I codes = SpareRow(group);
      AddFour<3, 0, kRows>(codes, table, x + 24, stride, sums);
      AddFour<3, 3, kRows>(codes, table, x + 28, stride, sums);
    }
  }
}

// Panels 0.. of `codes`, each of num_groups groups: start(panel, sums [kRows]), then all products,
// then finish(panel, sums). One at a time: the next one's products fill the waits for this one's.
template <int kBits, int kRows, typename Start, typename Finish>
inline void MultiplyPanels(const uint8_t* codes, const float* levels, int num_panels,
                           int num_groups, const float* x, int64_t stride, Start start,
                           Finish finish) {
  constexpr int kGroup = 64 * kBits;  // bytes
  constexpr int kEntries = kBits == 4 ? 16 : 8;
  const Simd::Table table = kBits == 8 ? Simd::Zero() : Simd::template MakeTable<kEntries>(levels);
  for (int panel = 0; panel < num_panels; ++panel) {
    F sums[kRows];
    start(panel, sums);
    for (int g = 0; g < num_groups; ++g, codes += kGroup) {
      AddGroup<kBits, kRows>(codes, table, x + 32 * g, stride, sums);
    }
    finish(panel, sums);
  }
}

// scores [kRows][kMaxPageTokens] += K x q; those past num_valid are -infinity.
template <int kBits, int kRows>
void ScoreCoded(const CodedPageAttention& page, int32_t first, int num_valid, float* scores) {
  MultiplyPanels<kBits, kRows>(
      page.k_codes, page.k_levels, page.page_tokens / 16, page.dim / 32,
      page.q + int64_t{first} * page.dim, page.dim,
      [](int /*panel*/, F* sums) {
        for (int r = 0; r < kRows; ++r) {
          sums[r] = Simd::Zero();
        }
      },
      [&](int panel, F* sums) {
        const F scales = Simd::LoadHalf(page.k_scales + 16 * panel);
        int count = num_valid - 16 * panel;
        count = count < 0 ? 0 : count > 16 ? 16 : count;
        for (int r = 0; r < kRows; ++r) {
          float* sixteen = scores + r * kMaxPageTokens + 16 * panel;
          const F whole = Simd::Fma(sums[r], scales, Simd::Load(sixteen));
          Simd::Store(sixteen, Simd::First(whole, count, Simd::Set(kNoScore)));
        }
      });
}

// o = o * scale + weights x V
template <int kBits, int kRows>
void AddCodedValues(const CodedPageAttention& page, int32_t first, const float* weights,
                    const float* scales) {
  float* o = page.o + int64_t{first} * page.dim;
  MultiplyPanels<kBits, kRows>(
      page.v_codes, page.v_levels, page.num_values, page.page_tokens / 32, weights, kMaxPageTokens,
      [&](int panel, F* sums) {
        for (int r = 0; r < kRows; ++r) {
          sums[r] = Simd::Mul(Simd::Load(o + r * page.dim + 16 * panel), Simd::Set(scales[r]));
        }
      },
      [&](int panel, F* sums) {
        for (int r = 0; r < kRows; ++r) {
          Simd::Store(o + r * page.dim + 16 * panel, sums[r]);
        }
      });
}

// scores [kRows][kMaxPageTokens]: what does not depend on the codes.
template <int kRows>
void StartScores(const CodedPageAttention& page, int32_t first, float* scores) {
  if (page.key_bias.products != nullptr) {
    ScoreBias<kRows>(page.key_bias, first, page.page_tokens, page.bias + first, scores);
    return;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kMaxPageTokens; t += 16) {
      Simd::Store(scores + r * kMaxPageTokens + t, Simd::Set(page.bias[first + r]));
    }
  }
}

// kRows rows that see the same number of positions.
template <int kRows>
void AttendCodedRows(const CodedPageAttention& page, int32_t first) {
  float weights[kRows * kMaxPageTokens];
  float scales[kRows];
  const int num_valid = page.num_valid[first];
  StartScores<kRows>(page, first, weights);
  switch (page.k_bits) {
    case 3:
      ScoreCoded<3, kRows>(page, first, num_valid, weights);
      break;
    case 4:
      ScoreCoded<4, kRows>(page, first, num_valid, weights);
      break;
    default:
      ScoreCoded<8, kRows>(page, first, num_valid, weights);
      break;
  }
  for (int r = 0; r < kRows; ++r) {
    float* scores = weights + r * kMaxPageTokens;
    F largest = Simd::Set(kNoScore);
    for (int t = 0; t < page.page_tokens; t += 16) {
      largest = Simd::Max(largest, Simd::Load(scores + t));
    }
    const float page_max = Simd::Largest(largest);
    const float old_max = page.max[first + r];
    const float max = page_max > old_max ? page_max : old_max;
    float scale_lanes[16];
    Simd::Store(scale_lanes, Exp(Simd::Set(old_max - max)));
    scales[r] = old_max == kNoScore ? 0.0F : scale_lanes[0];
    const float sum = WeightRow(max, page.page_tokens, scores);
    page.sum[first + r] = page.sum[first + r] * scales[r] + sum;
    page.max[first + r] = max;
    page.page_max[first + r] = page_max;
    page.page_sum[first + r] = sum;
    for (int t = 0; t < page.page_tokens; t += 16) {
      const F scaled = Simd::Mul(Simd::Load(scores + t), Simd::LoadHalf(page.v_scales + t));
      Simd::Store(scores + t, scaled);
    }
  }
  if (page.v_bits == 3) {
    AddCodedValues<3, kRows>(page, first, weights, scales);
  } else {
    AddCodedValues<8, kRows>(page, first, weights, scales);
  }
}

void AttendCodedPage(const CodedPageAttention& page) {
  for (int32_t row = 0; row < page.num_rows;) {
    int32_t count = 1;
    while (count < 4 && row + count < page.num_rows &&
           page.num_valid[row + count] == page.num_valid[row]) {
      ++count;
    }
    if (page.num_valid[row] > 0) {
      switch (count) {
        case 1:
          AttendCodedRows<1>(page, row);
          break;
        case 2:
          AttendCodedRows<2>(page, row);
          break;
        case 3:
          AttendCodedRows<3>(page, row);
          break;
        default:
          AttendCodedRows<4>(page, row);
          break;
      }
    }
    row += count;
  }
}

}  // namespace
