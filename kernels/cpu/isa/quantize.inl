// Quantises vectors for coded pages. Equal bit for bit to kernels/core/quantize.h. For any Simd of
// 16 lanes.

namespace {

inline float AddLanesPairwise(F x) {
  float lanes[16];
  Simd::Store(lanes, x);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      lanes[i] += lanes[i + width];
    }
  }
  return lanes[0];
}

inline void StoreCodesFirst(uint8_t* codes, int count, F x) {
  if (count == 16) {
    Simd::StoreInt8(codes, x);
    return;
  }
  uint8_t padded[16];
  Simd::StoreInt8(padded, x);
  __builtin_memcpy(codes, padded, static_cast<uint64_t>(count));
}

inline I LoadCodesFirst(const uint8_t* codes, int count) {
  if (count == 16) {
    return Simd::WidenBytes(codes);
  }
  uint8_t padded[16] = {};
  __builtin_memcpy(padded, codes, static_cast<uint64_t>(count));
  return Simd::WidenBytes(padded);
}

// The codes of x, as floats.
inline F CodesOf(F x, const Codebook& book) {
  F code = Simd::Zero();
  for (int t = 0; t + 1 < book.num_levels; ++t) {
    code = Simd::SelectGe(Simd::Set(book.thresholds[t]), x, code,
                          Simd::Set(static_cast<float>(t + 1)));
  }
  return code;
}

float QuantizeTurboVector(const float* x, int32_t dim, const Codebook& book, uint8_t* codes) {
  F squares = Simd::Zero();
  ForSixteens(dim, [&](int64_t i, int count) {
    const F value = LoadFirst(x + i, count);
    squares = Simd::Add(squares, Simd::Mul(value, value));
  });
  const float norm = __builtin_sqrtf(AddLanesPairwise(squares));
  const F inverse = Simd::Set(norm > 0 ? __builtin_sqrtf(static_cast<float>(dim)) / norm : 0.0F);
  const Simd::Table levels = Simd::template MakeTable<16>(book.levels);
  F level_squares = Simd::Zero();
  ForSixteens(dim, [&](int64_t i, int count) {
    const F u = Simd::Mul(LoadFirst(x + i, count), inverse);
    StoreCodesFirst(codes + i, count, CodesOf(u, book));
    const F level = Simd::LookUp<16>(levels, LoadCodesFirst(codes + i, count));
    level_squares =
        Simd::Add(level_squares, Simd::First(Simd::Mul(level, level), count, Simd::Zero()));
  });
  return norm / __builtin_sqrtf(AddLanesPairwise(level_squares)) + (norm - norm);
}

float QuantizeInt8Vector(const float* x, int32_t dim, uint8_t* codes) {
  F largest = Simd::Zero();
  F poison = Simd::Zero();
  ForSixteens(dim, [&](int64_t i, int count) {
    const F value = LoadFirst(x + i, count);
    largest = Simd::Max(largest, Simd::Abs(value));
    poison = Simd::Add(poison, Simd::Sub(value, value));
  });
  const float poisoned = AddLanesPairwise(poison);
  if (poisoned != 0) {  // NaN
    __builtin_memset(codes, 0, static_cast<uint64_t>(dim));
    return poisoned;
  }
  const float wanted = Simd::Largest(largest) / 127.0F;
  uint16_t halves[16];
  float lanes[16];
  Simd::StoreHalf(halves, Simd::Set(wanted > 65504.0F ? 65504.0F : wanted));
  Simd::Store(lanes, Simd::LoadHalf(halves));
  const float scale = lanes[0];
  const F inverse = Simd::Set(scale > 0 ? 1.0F / scale : 0.0F);
  ForSixteens(dim, [&](int64_t i, int count) {
    const F code = Simd::Round(Simd::Mul(LoadFirst(x + i, count), inverse));
    StoreCodesFirst(codes + i, count,
                    Simd::Max(Simd::Min(code, Simd::Set(127.0F)), Simd::Set(-127.0F)));
  });
  return scale;
}

void DequantizeTurboVector(const uint8_t* codes, int32_t dim, const Codebook& book, float scale,
                           float* x) {
  const Simd::Table table = Simd::template MakeTable<16>(book.levels);
  ForSixteens(dim, [&](int64_t i, int count) {
    const F level = Simd::LookUp<16>(table, LoadCodesFirst(codes + i, count));
    StoreFirst(x + i, count, Simd::Mul(Simd::Set(scale), level));
  });
}

void DequantizeInt8Vector(const uint8_t* codes, int32_t dim, float scale, float* x) {
  ForSixteens(dim, [&](int64_t i, int count) {
    const F code = Simd::SignedByte<0>(LoadCodesFirst(codes + i, count));
    StoreFirst(x + i, count, Simd::Mul(Simd::Set(scale), code));
  });
}

}  // namespace
