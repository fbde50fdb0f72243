// Attention of some query rows over a page in halves, in float32. For any Simd of 16 lanes.

namespace {

// Attends with some rows to k [dim][page_tokens] and v, whose rows are v_stride apart.
template <typename K, typename V>
struct HalfPage {
  const PageAttention& page;
  const K* k;
  const V* v;
  int64_t v_stride;

  template <int kRows>
  void Run(int32_t first, int num_valid) const {
    alignas(64) float weights[kRows * kMaxPageTokens];
    alignas(64) float scales[16];
    const QueryRows& rows = page.rows;
    MultiplyColumns<kRows>(rows.q + int64_t{first} * rows.dim, rows.dim, k, page.page_tokens,
                           page.head_dim, num_valid, weights);
    WeightRows<kRows>(rows, first, num_valid, weights, scales);
    AddPage<kRows>(v, v_stride, num_valid, weights, scales, rows.o + int64_t{first} * rows.dim,
                   rows.dim);
  }
};

// Does nothing: float products take the queries as they are.
void NarrowQueries(const QueryWords& /*queries*/) {}

// Widens values to v [page_tokens][dim], zero-padded.
inline void WidenValues(const PageAttention& page, float* v) {
  const int32_t dim = page.rows.dim;
  for (int t = 0; t < page.num_written; ++t) {
    HalfRowToFloat(page.v + t * page.head_dim, page.head_dim, v + t * dim);
    for (int i = page.head_dim; i < dim; ++i) {
      v[t * dim + i] = 0;
    }
  }
}

void AttendPage(const PageAttention& page) {
  const PageBuffers& to = page.buffers;
  const int32_t dim = page.rows.dim;
  if (page.rows.num_rows < kManyRows && page.head_dim == dim) {
    auto* k = reinterpret_cast<uint16_t*>(to.k);
    TransposeKeys(page, k);
    ForRuns<kMaxRows>(page.rows,
                      HalfPage<uint16_t, uint16_t>{page, k, page.v, page.head_dim});
    return;
  }
  TransposeKeys(page, to.k);
  WidenValues(page, to.v);
  ForRuns<kMaxRows>(page.rows, HalfPage<float, float>{page, to.k, to.v, dim});
}

}  // namespace
