// Row-wise operations, for any Simd of 16 lanes. Tails of fewer than 16 elements go through a
// padded copy, so that every element meets the same instructions.

namespace {

// e^x within 2 units in the last place; 0 below -87.3, finite above 88.
inline F Exp(F x) {
  const F lowest = Simd::Set(-87.3F);
  const F clamped = Simd::Min(Simd::Max(x, lowest), Simd::Set(88.0F));
  const F n = Simd::Round(Simd::Mul(clamped, Simd::Set(1.44269504F)));
  F r = Simd::Fma(n, Simd::Set(-0.693145752F), clamped);  // ln 2 in two parts
  r = Simd::Fma(n, Simd::Set(-1.42860677e-6F), r);
  F p = Simd::Set(1.38888889e-3F);  // Taylor: |r| <= ln 2 / 2
  p = Simd::Fma(p, r, Simd::Set(8.33333333e-3F));
  p = Simd::Fma(p, r, Simd::Set(4.16666667e-2F));
  p = Simd::Fma(p, r, Simd::Set(1.66666667e-1F));
  p = Simd::Fma(p, r, Simd::Set(0.5F));
  p = Simd::Fma(p, r, Simd::Set(1.0F));
  p = Simd::Fma(p, r, Simd::Set(1.0F));
  return Simd::SelectGe(x, lowest, Simd::Scale(p, n), Simd::Zero());
}

// Calls function(offset, count) for runs of 16 elements and a shorter last one.
template <typename Function>
inline void ForSixteens(int64_t count, Function function) {
  for (int64_t i = 0; i < count; i += 16) {
    function(i, count - i < 16 ? static_cast<int>(count - i) : 16);
  }
}

inline F LoadFirst(const float* p, int count) {
  if (count == 16) {
    return Simd::Load(p);
  }
  float padded[16] = {};
  __builtin_memcpy(padded, p, static_cast<uint64_t>(count) * sizeof(float));
  return Simd::Load(padded);
}

inline void StoreFirst(float* p, int count, F x) {
  if (count == 16) {
    Simd::Store(p, x);
    return;
  }
  float padded[16];
  Simd::Store(padded, x);
  __builtin_memcpy(p, padded, static_cast<uint64_t>(count) * sizeof(float));
}

void RmsNormRow(const float* x, const float* gain, float epsilon, int64_t dim, float* y) {
  F squares = Simd::Zero();
  ForSixteens(dim, [&](int64_t i, int count) {
    const F value = LoadFirst(x + i, count);
    squares = Simd::Fma(value, value, squares);
  });
  const float mean = Simd::Sum(squares) / static_cast<float>(dim);
  const F scale = Simd::Set(1.0F / __builtin_sqrtf(mean + epsilon));
  ForSixteens(dim, [&](int64_t i, int count) {
    const F value = Simd::Mul(LoadFirst(x + i, count), scale);
    StoreFirst(y + i, count, Simd::Mul(value, LoadFirst(gain + i, count)));
  });
}

// x / (1 + e^-x) * up
void GatedSilu(const float* gate, const float* up, int64_t dim, float* out) {
  ForSixteens(dim, [&](int64_t i, int count) {
    const F x = LoadFirst(gate + i, count);
    const F denominator = Simd::Add(Simd::Set(1.0F), Exp(Simd::Sub(Simd::Zero(), x)));
    StoreFirst(out + i, count, Simd::Mul(Simd::Div(x, denominator), LoadFirst(up + i, count)));
  });
}

// x / 2 (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3); this side of the
// equation does not cancel where x is negative.
void GatedGelu(const float* gate, const float* up, int64_t dim, float* out) {
  ForSixteens(dim, [&](int64_t i, int count) {
    const F x = LoadFirst(gate + i, count);
    const F cubic = Simd::Fma(Simd::Mul(Simd::Set(0.044715F), Simd::Mul(x, x)), x, x);
    const F power = Exp(Simd::Mul(Simd::Set(-1.59576912F), cubic));
    const F active = Simd::Div(x, Simd::Add(Simd::Set(1.0F), power));
    StoreFirst(out + i, count, Simd::Mul(active, LoadFirst(up + i, count)));
  });
}

void HalfRowToFloat(const uint16_t* src, int64_t count, float* dst) {
  ForSixteens(count, [&](int64_t i, int part) {
    if (part == 16) {
      Simd::Store(dst + i, Simd::LoadHalf(src + i));
      return;
    }
    uint16_t padded[16] = {};
    __builtin_memcpy(padded, src + i, static_cast<uint64_t>(part) * sizeof(uint16_t));
    StoreFirst(dst + i, part, Simd::LoadHalf(padded));
  });
}

void FloatRowToHalf(const float* src, int64_t count, uint16_t* dst) {
  ForSixteens(count, [&](int64_t i, int part) {
    if (part == 16) {
      Simd::StoreHalf(dst + i, Simd::Load(src + i));
      return;
    }
    uint16_t padded[16];
    Simd::StoreHalf(padded, LoadFirst(src + i, part));
    __builtin_memcpy(dst + i, padded, static_cast<uint64_t>(part) * sizeof(uint16_t));
  });
}

}  // namespace
