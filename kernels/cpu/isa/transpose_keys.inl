// Transposes keys in halves, so that positions are in the lanes. For any Simd of 16 lanes.

namespace {

inline void StoreSixteen(float* p, Simd::H x) { Simd::Store(p, Simd::ToFloat(x)); }
inline void StoreSixteen(uint16_t* p, Simd::H x) { Simd::StoreHalves(p, x); }

// Transposes keys to k [dim][page_tokens]. Elements beyond head_dim, or beyond the positions that
// are written, are undefined.
template <typename T>
inline void TransposeKeys(const PageAttention& page, T* k) {
  for (int token = 0; token < page.num_written; token += 16) {
    for (int i = 0; i < page.head_dim; i += 16) {
      Simd::H columns[16];
      Simd::TransposeHalves(page.k + token * page.head_dim + i, page.head_dim, columns);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        StoreSixteen(k + (i + j) * page.page_tokens + token, columns[j]);
      }
    }
  }
}

}  // namespace
