// Sixteen lanes in two AVX2 registers.

namespace {

struct Simd {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  using B = I;                          // 64 bytes: 16 rows of 4 columns
  using H = __m256i;                    // 16 halves
  static constexpr int kMaxTokens = 2;  // 16 registers hold the sums of two tokens
  // How many vectors a product of `rows` rows takes at a time: at most 12 registers of sums.
  static constexpr int NumVectors(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

  static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F Fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static F Abs(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static F SelectGe(F x, F limit, F yes, F no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, limit.a, _CMP_GE_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, limit.b, _CMP_GE_OQ))};
  }
  static F First(F x, int count, F other) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i in_a = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
    const __m256i in_b = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lanes);
    return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(in_a)),
            _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(in_b))};
  }
  template <int kRun>
  static F SwapRuns(F x) {
    if constexpr (kRun == 1) {
      return {_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)};
    } else if constexpr (kRun == 2) {
      return {_mm256_permute_ps(x.a, 0x4e), _mm256_permute_ps(x.b, 0x4e)};
    } else if constexpr (kRun == 4) {
      return {_mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1)};
    } else {
      return {x.b, x.a};
    }
  }
  static F Round(F x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
  }
  static F Scale(F x, F n) { return {ScaleHalf(x.a, n.a), ScaleHalf(x.b, n.b)}; }
  static float Sum(F x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  }
  static float Largest(F x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  }

  static F LoadHalf(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void StoreHalf(uint16_t* p, F x) {
    auto* out = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(out, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(out + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
  }
  static void StoreHalves(uint16_t* p, H x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static F ToFloat(H x) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(x)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
  }
  static void TransposeHalves(const uint16_t* rows, int64_t stride, H* columns) {
    TransposeRows(rows, stride, columns);
  }
  static F LoadBFloat16(const uint16_t* p) { return {WidenBFloat16(p), WidenBFloat16(p + 8)}; }

  static I SetInt(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static F ToFloat(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static I AddInt(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I SubInt(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  template <int kBits>
  static I ShiftLeft(I x) {
    return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
  }
  static int32_t StoreCodes(int8_t* high_codes, int8_t* low_codes, F x) {
    const __m256i a = _mm256_cvtps_epi32(x.a);
    const __m256i b = _mm256_cvtps_epi32(x.b);
    const __m256i half = _mm256_set1_epi32(64);
    const I high = {_mm256_srai_epi32(_mm256_add_epi32(a, half), 7),
                    _mm256_srai_epi32(_mm256_add_epi32(b, half), 7)};
    const I shifted = ShiftLeft<7>(high);
    StoreBytes(high_codes, high);
    StoreBytes(low_codes, {_mm256_sub_epi32(a, shifted.a), _mm256_sub_epi32(b, shifted.b)});
    const __m256i sum = _mm256_add_epi32(a, b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }

  static void StoreInt8(uint8_t* p, F x) {
    StoreBytes(reinterpret_cast<int8_t*>(p), {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)});
  }

  using Table = F;  // 16 entries
  static I LoadInts(const uint8_t* p) { return LoadBytes(p); }
  static I WidenBytes(const uint8_t* p) {  // 16 of them
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  template <int kBits>
  static I ShiftRight(I x) {
    return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
  }
  static I AndInt(I x, int32_t mask) {
    const __m256i m = _mm256_set1_epi32(mask);
    return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
  }
  static I OrInt(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
  template <int kByte>
  static F SignedByte(I x) {
    return ToFloat({_mm256_srai_epi32(_mm256_slli_epi32(x.a, 24 - 8 * kByte), 24),
                    _mm256_srai_epi32(_mm256_slli_epi32(x.b, 24 - 8 * kByte), 24)});
  }
  template <int kEntries>
  static Table MakeTable(const float* entries) {
    return {_mm256_loadu_ps(entries), _mm256_loadu_ps(entries + (kEntries == 16 ? 8 : 0))};
  }
  template <int kEntries>
  static F LookUp(Table table, I x) {
    return {LookUpHalf<kEntries>(table, x.a), LookUpHalf<kEntries>(table, x.b)};
  }

  static B LoadBytes(const uint8_t* p) {
    const auto* in = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(in), _mm256_loadu_si256(in + 1)};
  }
  static B LowNibbles(B x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
  }
  static B HighNibbles(B x) {
    return LowNibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
  }
#ifdef __AVXVNNI__
  static I DotNibbles(I sum, B weights, const int8_t* x) { return DotBytes(sum, weights, x); }
  static I DotBytes(I sum, B weights, const int8_t* x) {
    const __m256i four = Broadcast(x);
    return {_mm256_dpbusd_avx_epi32(sum.a, weights.a, four),
            _mm256_dpbusd_avx_epi32(sum.b, weights.b, four)};
  }
#else
  // Two products of a nibble and an int8 fit in 16 bits with their sum: nothing saturates.
  static I DotNibbles(I sum, B weights, const int8_t* x) {
    const __m256i four = Broadcast(x);
    return {_mm256_add_epi32(sum.a, Dot4(weights.a, four)),
            _mm256_add_epi32(sum.b, Dot4(weights.b, four))};
  }
  // Whole bytes would saturate, so they are multiplied a nibble at a time; exact.
  static I DotBytes(I sum, B weights, const int8_t* x) {
    const __m256i four = Broadcast(x);
    const B low = LowNibbles(weights);
    const B high = HighNibbles(weights);
    const I high_sum = {_mm256_slli_epi32(Dot4(high.a, four), 4),
                        _mm256_slli_epi32(Dot4(high.b, four), 4)};
    return {_mm256_add_epi32(_mm256_add_epi32(sum.a, Dot4(low.a, four)), high_sum.a),
            _mm256_add_epi32(_mm256_add_epi32(sum.b, Dot4(low.b, four)), high_sum.b)};
  }
#endif

 private:
  // The lookup reads three bits; the fourth, moved to the sign, chooses the half of the table.
  template <int kEntries>
  static __m256 LookUpHalf(Table table, __m256i x) {
    const __m256 low = _mm256_permutevar8x32_ps(table.a, x);
    if constexpr (kEntries == 8) {
      return low;
    } else {
      const __m256 high = _mm256_permutevar8x32_ps(table.b, x);
      return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
    }
  }
  // The low bytes of lanes that are all within int8.
  static void StoreBytes(int8_t* p, I x) {
    const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  static __m256 ScaleHalf(__m256 x, __m256 n) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }
  static __m256 WidenBFloat16(const uint16_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
  }
  static __m256i Broadcast(const int8_t* x) {
    int32_t four = 0;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static __m256i Dot4(__m256i weights, __m256i four) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(weights, four), _mm256_set1_epi16(1));
  }
};

}  // namespace
