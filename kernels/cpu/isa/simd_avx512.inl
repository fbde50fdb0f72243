// Sixteen lanes in one AVX-512 register.

namespace {

struct Simd {
  using F = __m512;                     // 16 floats
  using I = __m512i;                    // 16 int32
  using B = __m512i;                    // 64 bytes: 16 rows of 4 columns
  using H = __m256i;                    // 16 halves
  static constexpr int kMaxTokens = 8;  // 8 float and 16 integer sums leave 8 registers of 32
  // How many vectors a product of `rows` rows takes at a time: 24 sums, 4 vectors, one factor.
  static constexpr int NumVectors(int /*rows*/) { return 4; }

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  // a where x >= limit, else b.
  static F SelectGe(F x, F limit, F a, F b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), b, a);
  }
  // x in the first `count` lanes, `other` in the rest.
  static F First(F x, int count, F other) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>((1U << count) - 1), other, x);
  }
  // Neighbouring runs of kRun lanes change places.
  template <int kRun>
  static F SwapRuns(F x) {
    if constexpr (kRun == 1) {
      return _mm512_permute_ps(x, 0xb1);
    } else if constexpr (kRun == 2) {
      return _mm512_permute_ps(x, 0x4e);
    } else if constexpr (kRun == 4) {
      return _mm512_shuffle_f32x4(x, x, 0xb1);
    } else {
      return _mm512_shuffle_f32x4(x, x, 0x4e);
    }
  }
  static F Round(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x * 2^n for whole n with results in the normal range.
  static F Scale(F x, F n) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23)));
  }
  static float Sum(F x) { return _mm512_reduce_add_ps(x); }
  static float Largest(F x) { return _mm512_reduce_max_ps(x); }

  static F LoadHalf(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void StoreHalf(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static void StoreHalves(uint16_t* p, H x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static F ToFloat(H x) { return _mm512_cvtph_ps(x); }
  static void TransposeHalves(const uint16_t* rows, int64_t stride, H* columns) {
    TransposeRows(rows, stride, columns);
  }
  static F LoadBFloat16(const uint16_t* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
  }

  // `words`: int16 lanes, whose low 5 bits choose one of 32 entries.
  static I LookUpWords(I table, I words) { return _mm512_permutexvar_epi16(words, table); }
  // Elements 0, 2, 1, 3 of each four.
  static F SwapMiddles(F x) { return _mm512_permute_ps(x, 0xd8); }
  static I FloatBits(F x) { return _mm512_castps_si512(x); }
  // sum + x0 y0 + x1 y1, pairs of int16.
  static I DotWords(I x, I y, I sum) { return _mm512_dpwssd_epi32(sum, x, y); }
  // The low int16 of both, as pairs.
  static I PairWords(I low, I high) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
  }
  static void StoreLowWords(uint16_t* p, I x) { StoreHalves(p, _mm512_cvtepi32_epi16(x)); }
  static H LoadHalves(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  // Halves: the larger of two magnitudes.
  static H LargerMagnitudes(H a, H b) {
    const H magnitude = _mm256_set1_epi16(0x7fff);
    return _mm256_max_epu16(_mm256_and_si256(a, magnitude), _mm256_and_si256(b, magnitude));
  }
  static void StoreInts(uint32_t* p, I x) { _mm512_storeu_si512(p, x); }
  // The first `count` of 16 halves, and zeros.
  static H LoadFirstOfHalves(const uint16_t* p, int count) {
    const int first = count < 0 ? 0 : count;
    return _mm256_maskz_loadu_epi16(
        static_cast<__mmask16>(first >= 16 ? 0xffffU : (1U << first) - 1), p);
  }
  // The first `count` of 16 floats, and zeros.
  static F LoadFirst(const float* p, int count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), p);
  }
  static void StoreFirst(float* p, F x, int count) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1), x);
  }
  // x in the lanes of `mask`, `other` in the rest.
  static F Masked(F x, uint32_t mask, F other) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(mask), other, x);
  }
  // The numbers x - floor(x), and 0 for an infinity; p * 2^floor(x), and 0 for -infinity.
  static F Fraction(F x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static F ScaleByFloor(F p, F x) { return _mm512_scalef_ps(p, x); }
  // Lane i is combine over rows[i]'s lanes, for 8 rows; what is in the other lanes means nothing.
  template <typename Combine>
  static F CombineRows(const F* rows, Combine combine) {
    F a[4];
    for (int i = 0; i < 4; ++i) {  // rows i, i + 4 in 256-bit halves
      a[i] = combine(_mm512_shuffle_f32x4(rows[i], rows[i + 4], 0x44),
                     _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0xee));
    }
    F b[2];
    for (int i = 0; i < 2; ++i) {  // rows i, i + 4, i + 2, i + 6 in 128-bit lanes
      b[i] = combine(_mm512_shuffle_f32x4(a[i], a[i + 2], 0x88),
                     _mm512_shuffle_f32x4(a[i], a[i + 2], 0xdd));
    }
    const F c = combine(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
    const F d = combine(c, _mm512_permute_ps(c, 0x4e));
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 1, 8, 9, 4, 5, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0), d);
  }
  // Pairs (x0, x2), (x1, x3), .. of the low int16 of lanes, of x and then of y.
  static I PairLowWords(I x, I y) {
    const F a = _mm512_castsi512_ps(x);
    const F b = _mm512_castsi512_ps(y);
    const __m512i pairs = PairWords(_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x44)),
                                    _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xee)));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), pairs);
  }
  // 16 halves, twice.
  static I TwiceHalves(const uint16_t* p) { return _mm512_broadcast_i64x4(LoadHalves(p)); }
  // The low bytes of int16 lanes, signed.
  static I LowBytesOfWords(I x) { return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8); }

  static I SetInt(int32_t x) { return _mm512_set1_epi32(x); }
  static F ToFloat(I x) { return _mm512_cvtepi32_ps(x); }
  static I AddInt(I a, I b) { return _mm512_add_epi32(a, b); }
  static I SubInt(I a, I b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static I ShiftLeft(I x) {
    return _mm512_slli_epi32(x, kBits);
  }
  // Rounds to the nearest integers, all within 127 * 128, and cuts them in 128 high + low. Their
  // sum.
  static int32_t StoreCodes(int8_t* high_codes, int8_t* low_codes, F x) {
    const __m512i rounded = _mm512_cvtps_epi32(x);
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(rounded, _mm512_set1_epi32(64)), 7);
    const __m512i low = _mm512_sub_epi32(rounded, ShiftLeft<7>(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high_codes), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low_codes), _mm512_cvtepi32_epi8(low));
    return _mm512_reduce_add_epi32(rounded);
  }

  // Rounds to the nearest integers, all within -127..127, and stores their low bytes.
  static void StoreInt8(uint8_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }

  // Codes of coded pages: 32-bit lanes, shifted until a code is at the bottom of its lane.
  using Table = F;  // 16 entries
  static I LoadInts(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static I WidenBytes(const uint8_t* p) {  // 16 of them
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  template <int kBits>
  static I ShiftRight(I x) {
    return _mm512_srli_epi32(x, kBits);
  }
  static I AndInt(I x, int32_t mask) { return _mm512_and_si512(x, _mm512_set1_epi32(mask)); }
  static I OrInt(I x, I y) { return _mm512_or_si512(x, y); }
  template <int kByte>
  static F SignedByte(I x) {
    return ToFloat(_mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * kByte), 24));
  }
  // `entries`: 8 or 16 floats. LookUp reads as many low bits of a lane as that takes.
  template <int kEntries>
  static Table MakeTable(const float* entries) {
    return kEntries == 16 ? Load(entries) : _mm512_broadcast_f32x8(_mm256_loadu_ps(entries));
  }
  template <int kEntries>
  static F LookUp(Table table, I x) {
    return _mm512_permutexvar_ps(x, table);
  }

  static B LoadBytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void StoreBytes(uint8_t* p, B x) { _mm512_storeu_si512(p, x); }
  static I LoadInts(const int32_t* p) { return _mm512_loadu_si512(p); }
  static B LowNibbles(B x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
  static B HighNibbles(B x) {
    return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
  }
  // sum + the product of each row's 4 unsigned weights with the same 4 signed activations.
  static I DotNibbles(I sum, B weights, const int8_t* x) { return DotBytes(sum, weights, x); }
  static I DotBytes(I sum, B weights, const int8_t* x) {
    int32_t four = 0;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
  }
};

}  // namespace
