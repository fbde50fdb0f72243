// Rows of halves, 32 of them in a vector. For AVX-512.

namespace {

inline __m512i WideMagnitudes(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)); }

// Transposes 8 rows of 32 halves: lane group g of columns[j] becomes element 8 g + j of all rows.
inline void TransposeEightRows(const uint16_t* rows, int64_t stride, __m512i (&columns)[8]) {
  __m512i r[8];
  __m512i pairs[8];
  __m512i fours[8];
#pragma GCC unroll 8
  for (int t = 0; t < 8; ++t) {
    r[t] = _mm512_loadu_si512(rows + t * stride);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // rows 2 i and 2 i + 1, elements 0-3 and 4-7
    pairs[2 * i] = _mm512_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
    pairs[2 * i + 1] = _mm512_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {  // rows 4 i to 4 i + 3, elements 0-1, 2-3, 4-5, 6-7
    const __m512i* from = pairs + 4 * i;
    fours[4 * i] = _mm512_unpacklo_epi32(from[0], from[2]);
    fours[4 * i + 1] = _mm512_unpackhi_epi32(from[0], from[2]);
    fours[4 * i + 2] = _mm512_unpacklo_epi32(from[1], from[3]);
    fours[4 * i + 3] = _mm512_unpackhi_epi32(from[1], from[3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    columns[2 * i] = _mm512_unpacklo_epi64(fours[i], fours[4 + i]);
    columns[2 * i + 1] = _mm512_unpackhi_epi64(fours[i], fours[4 + i]);
  }
}

// Transposes 16 rows of 32 halves to columns [32][16]. Returns the largest magnitudes so far, two
// of each row.
inline __m512i TransposeWide(const uint16_t* rows, int64_t stride, uint16_t* columns,
                             __m512i largest) {
  __m512i first[8];
  __m512i second[8];
  TransposeEightRows(rows, stride, first);
  TransposeEightRows(rows + 8 * stride, stride, second);
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const __m512i a = _mm512_permutex2var_epi64(first[j], low, second[j]);
    const __m512i b = _mm512_permutex2var_epi64(first[j], high, second[j]);
    Simd::StoreHalves(columns + 16 * j, _mm512_castsi512_si256(a));
    Simd::StoreHalves(columns + 16 * (8 + j), _mm512_extracti64x4_epi64(a, 1));
    Simd::StoreHalves(columns + 16 * (16 + j), _mm512_castsi512_si256(b));
    Simd::StoreHalves(columns + 16 * (24 + j), _mm512_extracti64x4_epi64(b, 1));
    largest = _mm512_max_epu16(largest, _mm512_max_epu16(WideMagnitudes(a), WideMagnitudes(b)));
  }
  return largest;
}

// The largest magnitudes of 16 rows of `count` halves; of rows from num_rows on, 0.
inline Simd::H LargestOfRows(const uint16_t* rows, int64_t stride, int count, int num_rows) {
  __m512i r[16];
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) {
    r[t] = _mm512_setzero_si512();
    for (int i = 0; i < count; i += 32) {
      const uint32_t all = count - i >= 32 ? ~0U : (1U << (count - i)) - 1;
      const __m512i x = _mm512_maskz_loadu_epi16(t < num_rows ? all : 0, rows + t * stride + i);
      r[t] = _mm512_max_epu16(r[t], WideMagnitudes(x));
    }
  }
  // Each round leaves half as many vectors, of twice as many rows.
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_max_epu16(_mm512_unpacklo_epi16(r[2 * i], r[2 * i + 1]),
                            _mm512_unpackhi_epi16(r[2 * i], r[2 * i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_max_epu16(_mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]),
                            _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    r[i] = _mm512_max_epu16(_mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]),
                            _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]));
  }
  const __m512i both = _mm512_max_epu16(_mm512_shuffle_i64x2(r[0], r[1], 0x44),
                                        _mm512_shuffle_i64x2(r[0], r[1], 0xee));
  const __m512i twice = _mm512_max_epu16(both, _mm512_shuffle_i64x2(both, both, 0xb1));
  return _mm512_castsi512_si256(
      _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 4, 5, 0, 1, 4, 5), twice));
}

}  // namespace
