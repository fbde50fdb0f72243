// The parts of attention over pages in codes that all instruction sets share. For any Simd of 16
// lanes.

namespace {

// The shape of a group of codes of kBits (kernels/core/panel_codes.h).
template <int kBits>
constexpr int kGroupInner = kBits == 2 ? 16 : 32;
template <int kBits>
constexpr int kGroupBytes = 2 * kBits* kGroupInner<kBits>;

// Row 3 of a group of 3-bit codes, from bits 6-7 of the other three.
inline I SpareRow(const uint8_t* group) {
  const I row0 = Simd::AndInt(Simd::ShiftRight<6>(Simd::LoadInts(group)), 0x03030303);
  const I row1 = Simd::AndInt(Simd::ShiftRight<4>(Simd::LoadInts(group + 64)), 0x0c0c0c0c);
  const I row2 = Simd::AndInt(Simd::ShiftRight<2>(Simd::LoadInts(group + 128)), 0x30303030);
  return Simd::OrInt(Simd::OrInt(row0, row1), row2);
}

// Starts scores [kRows][kMaxPageTokens] with the terms that do not depend on the codes.
template <int kRows>
void StartScores(const CodedPageAttention& page, int32_t first, float* scores) {
  if (page.key_bias.products != nullptr) {
    ScoreBias<kRows>(page.key_bias, first, page.page_tokens, page.bias + first, scores);
    return;
  }
  for (int t = 0; t < page.page_tokens; t += 16) {
    const F weights =
        page.log_weights == nullptr ? Simd::Zero() : Simd::LoadHalf(page.log_weights + t);
    for (int r = 0; r < kRows; ++r) {
      Simd::Store(scores + r * kMaxPageTokens + t,
                  Simd::Add(weights, Simd::Set(page.bias[first + r])));
    }
  }
}

// Turns scores into weights times the scales of V, zero behind num_valid.
template <int kRows>
void WeightCodedRows(const CodedPageAttention& page, int32_t first, int num_valid, float* scores,
                     float* scales) {
  WeightRows<kRows>(page.rows, first, num_valid, scores, scales);
  for (int r = 0; r < kRows; ++r) {
    float* weights = scores + r * kMaxPageTokens;
    int t = 0;
    for (; t < num_valid; t += 16) {
      const F scaled = Simd::Mul(Simd::Load(weights + t), Simd::LoadHalf(page.v_scales + t));
      Simd::Store(weights + t, scaled);
    }
    for (; t < page.page_tokens; t += 16) {
      Simd::Store(weights + t, Simd::Zero());
    }
  }
}

}  // namespace
