// Transposition of halves, for both sets that have 256-bit registers.

namespace {

// Eight rows of 16 halves: lane 0 of out[j] is column j, lane 1 is column 8 + j.
inline void TransposeEightRows(const uint16_t* rows, int64_t stride, __m256i* out) {
  __m256i pairs[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto* even = reinterpret_cast<const __m256i*>(rows + 2 * i * stride);
    const auto* odd = reinterpret_cast<const __m256i*>(rows + (2 * i + 1) * stride);
    const __m256i a = _mm256_loadu_si256(even);
    const __m256i b = _mm256_loadu_si256(odd);
    pairs[2 * i] = _mm256_unpacklo_epi16(a, b);
    pairs[2 * i + 1] = _mm256_unpackhi_epi16(a, b);
  }
  __m256i fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // rows 0-3, then 4-7; columns 0-3, then 4-7
    const int first = 4 * (i / 2) + i % 2;
    fours[2 * i] = _mm256_unpacklo_epi32(pairs[first], pairs[first + 2]);
    fours[2 * i + 1] = _mm256_unpackhi_epi32(pairs[first], pairs[first + 2]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = _mm256_unpacklo_epi64(fours[i], fours[i + 4]);
    out[2 * i + 1] = _mm256_unpackhi_epi64(fours[i], fours[i + 4]);
  }
}

// 16 rows of 16 halves: out[j] is column j.
inline void TransposeRows(const uint16_t* rows, int64_t stride, __m256i* out) {
  __m256i top[8];
  __m256i bottom[8];
  TransposeEightRows(rows, stride, top);
  TransposeEightRows(rows + 8 * stride, stride, bottom);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    out[j] = _mm256_permute2x128_si256(top[j], bottom[j], 0x20);
    out[8 + j] = _mm256_permute2x128_si256(top[j], bottom[j], 0x31);
  }
}

}  // namespace
