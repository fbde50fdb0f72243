// Defines the elements of multiply_rows.inl in float32. Halves are widened as they are read.

namespace {

inline F LoadSixteen(const float* p) { return Simd::Load(p); }
inline F LoadSixteen(const uint16_t* p) { return Simd::LoadHalf(p); }
inline F LoadFactor(const float* p) { return Simd::Set(*p); }
inline F ZeroSum(F /*x*/) { return Simd::Zero(); }
inline F MultiplyAdd(F x, F factor, F sum) { return Simd::Fma(x, factor, sum); }

}  // namespace
