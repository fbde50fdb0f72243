// Keys rounded for their queries, tokens in the lanes: bit for bit QuantizeKey of
// kernels/core/quantize.h. For any Simd of 16 lanes; four vectors of tokens at a time fill the
// waits of each other's sums.

namespace {

// Arrays are [dim][kVectors * 16 tokens].
template <int kVectors>
struct KeyVectors {
  static constexpr int kTokens = 16 * kVectors;
  using Sums = F[kVectors];

  static void DotInOrder(const float* row, const float* x, int32_t dim, F* sums) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = Simd::Zero();
    }
    for (int32_t i = 0; i < dim; ++i) {
      const F factor = Simd::Set(row[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = Simd::Add(sums[v], Simd::Mul(factor, Simd::Load(x + i * kTokens + 16 * v)));
      }
    }
  }

  // Of two arrays, token by token; out [kTokens].
  static void DotTokens(const float* x, const float* y, int32_t dim, float* out) {
    for (int v = 0; v < kVectors; ++v) {
      F sum = Simd::Zero();
      for (int32_t i = 0; i < dim; ++i) {
        const int32_t at = i * kTokens + 16 * v;
        sum = Simd::Add(sum, Simd::Mul(Simd::Load(x + at), Simd::Load(y + at)));
      }
      Simd::Store(out + 16 * v, sum);
    }
  }

  // out = M x
  static void MultiplyMoments(const float* moments, const float* x, int32_t dim, float* out) {
    for (int32_t i = 0; i < dim; ++i) {
      Sums sums;
      DotInOrder(moments + int64_t{i} * dim, x, dim, sums);
      for (int v = 0; v < kVectors; ++v) {
        Simd::Store(out + i * kTokens + 16 * v, sums[v]);
      }
    }
  }

  static F NearestLevel(F x, const Codebook& book) {
    F level = Simd::Set(book.levels[0]);
    for (int t = 0; t + 1 < book.num_levels; ++t) {
      level = Simd::SelectGe(Simd::Set(book.thresholds[t]), x, level, Simd::Set(book.levels[t + 1]));
    }
    return level;
  }

  static F SaneScale(F fitted, F norm_corrected) {
    const F bounded =
        Simd::SelectGe(Simd::Mul(Simd::Set(2), norm_corrected), fitted, fitted, norm_corrected);
    return Simd::SelectGe(fitted, Simd::Mul(Simd::Set(0.5F), norm_corrected), bounded,
                          norm_corrected);
  }
  // scales = SaneScale(above / below)
  static void FitScales(const float* above, const float* below, const float* norm_corrected,
                        float* scales) {
    for (int t = 0; t < kTokens; t += 16) {
      const F fitted = Simd::Div(Simd::Load(above + t), Simd::Load(below + t));
      Simd::Store(scales + t, SaneScale(fitted, Simd::Load(norm_corrected + t)));
    }
  }

  // e = u - scale q, then each coordinate of q in turn to where it makes e^T M e least.
  static void Sweep(const KeyRounding& keys, const float* scales, const float* u, float* q,
                    float* e) {
    Sums scale;
    Sums inverse;
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = Simd::Load(scales + 16 * v);
      inverse[v] = Simd::Div(Simd::Set(1.0F), scale[v]);
    }
    for (int32_t i = 0; i < keys.dim; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        const int32_t at = i * kTokens + 16 * v;
        Simd::Store(e + at,
                    Simd::Sub(Simd::Load(u + at), Simd::Mul(scale[v], Simd::Load(q + at))));
      }
    }
    for (int32_t i = 0; i < keys.dim; ++i) {
      const float* row = keys.moments + int64_t{i} * keys.dim;
      const F diagonal = Simd::Set(1.0F / row[i]);
      Sums sums;
      DotInOrder(row, e, keys.dim, sums);
      for (int v = 0; v < kVectors; ++v) {
        const int32_t at = i * kTokens + 16 * v;
        const F old = Simd::Load(q + at);
        const F step = Simd::Mul(Simd::Mul(sums[v], inverse[v]), diagonal);
        const F level = NearestLevel(Simd::Add(old, step), *keys.book);
        Simd::Store(e + at, Simd::Sub(Simd::Load(e + at),
                                      Simd::Mul(scale[v], Simd::Sub(level, old))));
        Simd::Store(q + at, level);
      }
    }
  }

  static void StoreCodes(const KeyRounding& keys, const float* q, int32_t first) {
    for (int32_t i = 0; i < keys.dim; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        const F level = Simd::Load(q + i * kTokens + 16 * v);
        uint8_t sixteen[16];
        Simd::StoreInt8(sixteen, CodesOf(level, *keys.book));
        uint8_t* codes = keys.codes + int64_t{first + 16 * v} * keys.stride + i;
        for (int t = 0; t < 16; ++t) {
          codes[int64_t{t} * keys.stride] = sixteen[t];
        }
      }
    }
  }

  // Tokens [first, first + kTokens).
  static void Quantize(const KeyRounding& keys, int32_t first) {
    const int32_t dim = keys.dim;
    const int64_t size = int64_t{dim} * kTokens;
    float* u = keys.scratch;
    float* w = u + size;
    float* q = w + size;
    float* e = q + size;
    for (int t = 0; t < kTokens; ++t) {
      for (int32_t i = 0; i < dim; ++i) {
        u[i * kTokens + t] = keys.x[int64_t{first + t} * dim + i];
      }
    }
    const float root = __builtin_sqrtf(static_cast<float>(dim));
    float norms[kTokens];
    float inverses[kTokens];
    DotTokens(u, u, dim, norms);
    for (int t = 0; t < kTokens; ++t) {
      norms[t] = __builtin_sqrtf(norms[t]);
      inverses[t] = norms[t] >= kSmallestNorm ? root / norms[t] : 0.0F;
    }
    for (int32_t i = 0; i < dim; ++i) {
      for (int t = 0; t < kTokens; t += 16) {
        const F unit = Simd::Mul(Simd::Load(u + i * kTokens + t), Simd::Load(inverses + t));
        Simd::Store(u + i * kTokens + t, unit);
        Simd::Store(q + i * kTokens + t, NearestLevel(unit, *keys.book));
      }
    }
    MultiplyMoments(keys.moments, u, dim, w);
    float norm_corrected[kTokens];
    float scales[kTokens];
    float above[kTokens];
    float below[kTokens];
    DotTokens(q, q, dim, norm_corrected);
    for (int t = 0; t < kTokens; ++t) {
      norm_corrected[t] = root / __builtin_sqrtf(norm_corrected[t]);
    }
    Sweep(keys, norm_corrected, u, q, e);
    MultiplyMoments(keys.moments, q, dim, e);
    DotTokens(w, q, dim, above);
    DotTokens(e, q, dim, below);
    FitScales(above, below, norm_corrected, scales);
    Sweep(keys, scales, u, q, e);
    DotTokens(w, u, dim, above);
    DotTokens(w, q, dim, below);
    FitScales(above, below, norm_corrected, scales);
    for (int t = 0; t < kTokens; ++t) {
      keys.scales[first + t] = scales[t] * (norms[t] / root) + (norms[t] - norms[t]);
    }
    StoreCodes(keys, q, first);
  }
};

void QuantizeKeys(const KeyRounding& keys) {
  int32_t first = 0;
  for (; first + 64 <= keys.num_tokens; first += 64) {
    KeyVectors<4>::Quantize(keys, first);
  }
  for (; first < keys.num_tokens; first += 16) {
    KeyVectors<1>::Quantize(keys, first);
  }
}

}  // namespace
