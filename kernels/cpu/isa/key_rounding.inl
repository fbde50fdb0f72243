// Rounds keys for their queries, with tokens in the lanes. Equal bit for bit to QuantizeKey in
// kernels/core/quantize.h. Four vectors of tokens at a time fill the waits of each other's sums.
// For any Simd of 16 lanes.

namespace {

// Arrays are [dim][kVectors * 16 tokens].
template <int kVectors>
struct KeyVectors {
  static constexpr int kTokens = 16 * kVectors;
  using Sums = F[kVectors];

  // sum_j row[j] x[j], added in order.
  static void DotInOrder(const float* row, const float* x, int32_t count, F* sums) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = Simd::Zero();
    }
    for (int32_t j = 0; j < count; ++j) {
      const F factor = Simd::Set(row[j]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = Simd::Add(sums[v], Simd::Mul(factor, Simd::Load(x + j * kTokens + 16 * v)));
      }
    }
  }

  static F LevelOf(F x, const Codebook& book) {
    F level = Simd::Set(book.levels[0]);
    for (int t = 0; t + 1 < book.num_levels; ++t) {
      level =
          Simd::SelectGe(Simd::Set(book.thresholds[t]), x, level, Simd::Set(book.levels[t + 1]));
    }
    return level;
  }

  static F SaneScale(F fitted, F norm_corrected) {
    const F bounded =
        Simd::SelectGe(Simd::Mul(Simd::Set(2), norm_corrected), fitted, fitted, norm_corrected);
    return Simd::SelectGe(fitted, Simd::Mul(Simd::Set(0.5F), norm_corrected), bounded,
                          norm_corrected);
  }

  static F SquareRoot(F x) {
    float lanes[16];
    Simd::Store(lanes, x);
    for (float& lane : lanes) {
      lane = __builtin_sqrtf(lane);
    }
    return Simd::Load(lanes);
  }

  // Transforms x [kTokens, dim] to u [dim, kTokens], each key scaled to norm sqrt(dim). norms
  // [kTokens]. scales: the norm-corrected ones of the nearest levels.
  static void Normalize(const float* x, const Codebook& book, int32_t dim, float* u, float* norms,
                        F* scales) {
    const float root = __builtin_sqrtf(static_cast<float>(dim));
    for (int t = 0; t < kTokens; ++t) {
      for (int32_t i = 0; i < dim; ++i) {
        u[i * kTokens + t] = x[int64_t{t} * dim + i];
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      F squares = Simd::Zero();
      for (int32_t i = 0; i < dim; ++i) {
        const F value = Simd::Load(u + i * kTokens + 16 * v);
        squares = Simd::Add(squares, Simd::Mul(value, value));
      }
      Simd::Store(norms + 16 * v, SquareRoot(squares));
      float inverses[16];
      for (int t = 0; t < 16; ++t) {
        const float norm = norms[16 * v + t];
        inverses[t] = norm >= kSmallestNorm ? root / norm : 0.0F;
      }
      F level_squares = Simd::Zero();
      for (int32_t i = 0; i < dim; ++i) {
        float* at = u + i * kTokens + 16 * v;
        const F unit = Simd::Mul(Simd::Load(at), Simd::Load(inverses));
        Simd::Store(at, unit);
        const F level = LevelOf(unit, book);
        level_squares = Simd::Add(level_squares, Simd::Mul(level, level));
      }
      scales[v] = Simd::Div(Simd::Set(root), SquareRoot(level_squares));
    }
  }

  static void StoreCodes(const KeyRounding& keys, F codes, int32_t first, int32_t i) {
    uint8_t sixteen[16];
    Simd::StoreInt8(sixteen, codes);
    uint8_t* out = keys.codes + int64_t{first} * keys.stride + i;
    for (int t = 0; t < 16; ++t) {
      out[int64_t{t} * keys.stride] = sixteen[t];
    }
  }

  // Tokens [first, first + kTokens).
  static void Quantize(const KeyRounding& keys, int32_t first) {
    const int32_t dim = keys.dim;
    const Codebook& book = *keys.book;
    float* u = keys.scratch;
    float* e = u + int64_t{dim} * kTokens;
    float norms[kTokens];
    Sums scale;
    Normalize(keys.x + int64_t{first} * dim, book, dim, u, norms, scale);
    Sums inverse;
    Sums key_square;
    Sums key_error;
    for (int v = 0; v < kVectors; ++v) {
      inverse[v] = Simd::Div(Simd::Set(1.0F), scale[v]);
      key_square[v] = Simd::Zero();
      key_error[v] = Simd::Zero();
    }
    for (int32_t i = dim - 1; i >= 0; --i) {
      const float* row = keys.factors + int64_t{i} * dim;
      const int64_t behind = int64_t{i + 1} * kTokens;
      Sums carried;
      Sums key;
      DotInOrder(row + i + 1, e + behind, dim - 1 - i, carried);
      DotInOrder(row + i + 1, u + behind, dim - 1 - i, key);
      const F weight = Simd::Set(row[i]);
      for (int v = 0; v < kVectors; ++v) {
        const int32_t at = i * kTokens + 16 * v;
        const F unit = Simd::Load(u + at);
        const F wanted = Simd::Add(unit, carried[v]);
        const F scaled = Simd::Mul(wanted, inverse[v]);
        const F decoded = Simd::Mul(scale[v], LevelOf(scaled, book));
        StoreCodes(keys, CodesOf(scaled, book), first + 16 * v, i);
        Simd::Store(e + at, Simd::Sub(unit, decoded));
        key[v] = Simd::Add(unit, key[v]);
        key_square[v] = Simd::Add(key_square[v], Simd::Mul(weight, Simd::Mul(key[v], key[v])));
        key_error[v] = Simd::Add(key_error[v],
                                 Simd::Mul(weight, Simd::Mul(key[v], Simd::Sub(wanted, decoded))));
      }
    }
    const float root = __builtin_sqrtf(static_cast<float>(dim));
    for (int v = 0; v < kVectors; ++v) {
      const F fitted =
          Simd::Mul(scale[v], Simd::Div(key_square[v], Simd::Sub(key_square[v], key_error[v])));
      float fits[16];
      Simd::Store(fits, SaneScale(fitted, scale[v]));
      for (int t = 0; t < 16; ++t) {
        const float norm = norms[16 * v + t];
        keys.scales[first + 16 * v + t] = fits[t] * (norm / root) + (norm - norm);
      }
    }
  }
};

void QuantizeKeys(const KeyRounding& keys) {
  int32_t first = 0;
  for (; first + 64 <= keys.num_tokens; first += 64) {
    KeyVectors<4>::Quantize(keys, first);
  }
  for (; first + 48 <= keys.num_tokens; first += 48) {  // rows of a merged page
    KeyVectors<3>::Quantize(keys, first);
  }
  for (; first < keys.num_tokens; first += 16) {
    KeyVectors<1>::Quantize(keys, first);
  }
}

}  // namespace
