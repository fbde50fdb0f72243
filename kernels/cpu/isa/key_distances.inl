// Distances between keys, with tokens in the lanes. Equal bit for bit to MeasureKeyDistances in
// kernels/core/quantize.h. For any Simd of 16 lanes.

namespace {

constexpr int kDistanceVectors = 4;  // vectors of 16 for the 64 tokens

// Transforms x [64, dim] to y [dim, 64], in the metric of the queries.
inline void TransformKeys(const KeyDistances& keys) {
  constexpr int kTokens = 16 * kDistanceVectors;
  const int32_t dim = keys.dim;
  float* y = keys.scratch;
  for (int t = 0; t < kTokens; ++t) {
    for (int32_t i = 0; i < dim; ++i) {
      y[i * kTokens + t] = keys.x[int64_t{t} * dim + i];
    }
  }
  // This works in place: a coordinate takes from later ones alone.
  for (int32_t i = 0; i < dim && keys.factors != nullptr; ++i) {
    const float* row = keys.factors + int64_t{i} * dim;
    F sums[kDistanceVectors];
    KeyVectors<kDistanceVectors>::DotInOrder(row + i + 1, y + int64_t{i + 1} * kTokens, dim - 1 - i,
                                             sums);
    const F root = Simd::Set(__builtin_sqrtf(row[i]));
    for (int v = 0; v < kDistanceVectors; ++v) {
      float* at = y + i * kTokens + 16 * v;
      Simd::Store(at, Simd::Mul(Simd::Add(Simd::Load(at), sums[v]), root));
    }
  }
}

// Rows of the 16 tokens from 16 * kFirst on: the tokens of vectors kFirst and beyond, and what is
// the same the other way about.
template <int kFirst>
inline void MeasureRows(const KeyDistances& keys) {
  constexpr int kTokens = 16 * kDistanceVectors;
  constexpr int kVectors = kDistanceVectors - kFirst;
  for (int s = 16 * kFirst; s < 16 * kFirst + 16; ++s) {
    F sums[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = Simd::Zero();
    }
    const float* y = keys.scratch;
    for (int32_t i = 0; i < keys.dim; ++i, y += kTokens) {
      const F key = Simd::Set(y[s]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const F apart = Simd::Sub(Simd::Load(y + 16 * (kFirst + v)), key);
        sums[v] = Simd::Add(sums[v], Simd::Mul(apart, apart));
      }
    }
    float* row = keys.distances + s * kTokens;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Simd::Store(row + 16 * (kFirst + v), sums[v]);
    }
    for (int t = 16 * (kFirst + 1); t < kTokens; ++t) {
      keys.distances[t * kTokens + s] = row[t];
    }
  }
}

void MeasureKeys(const KeyDistances& keys) {
  TransformKeys(keys);
  MeasureRows<0>(keys);
  MeasureRows<1>(keys);
  MeasureRows<2>(keys);
  MeasureRows<3>(keys);
}

}  // namespace
