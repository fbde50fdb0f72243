// The random-sign Hadamard rotation of one vector (kernels/core/hadamard.h), for any Simd of 16
// lanes. Stages between vectors of 16 are additions; the four inside one are a product with the
// 16 x 16 Hadamard matrix, which needs no shuffles.

namespace {

// Entry (i, j) is -1 where i and j have an odd number of bits in common.
alignas(64) constexpr float kHadamard16[16][16] = {
    {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F,
     1.0F},
    {1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F,
     1.0F, -1.0F},
    {1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F,
     -1.0F, -1.0F},
    {1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F,
     -1.0F, 1.0F},
    {1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, 1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F,
     -1.0F, -1.0F},
    {1.0F, -1.0F, 1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F, 1.0F, -1.0F, 1.0F, -1.0F, -1.0F, 1.0F,
     -1.0F, 1.0F},
    {1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, 1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F,
     1.0F, 1.0F},
    {1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F, 1.0F, -1.0F, 1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F,
     1.0F, -1.0F},
    {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F,
     -1.0F, -1.0F},
    {1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F,
     -1.0F, 1.0F},
    {1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F,
     1.0F, 1.0F},
    {1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F,
     1.0F, -1.0F},
    {1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F, 1.0F, 1.0F,
     1.0F, 1.0F},
    {1.0F, -1.0F, 1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, 1.0F, -1.0F,
     1.0F, -1.0F},
    {1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, 1.0F, 1.0F,
     -1.0F, -1.0F},
    {1.0F, -1.0F, -1.0F, 1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, 1.0F, -1.0F,
     -1.0F, 1.0F},
};

// x [size] = H x, not scaled; size is a power of two of at least 16.
inline void HadamardOfSixteens(float* x, int32_t size) {
  for (int32_t half = 16; half < size; half *= 2) {
    for (int32_t begin = 0; begin < size; begin += 2 * half) {
      for (int32_t i = begin; i < begin + half; i += 16) {
        const F a = Simd::Load(x + i);
        const F b = Simd::Load(x + i + half);
        Simd::Store(x + i, Simd::Add(a, b));
        Simd::Store(x + i + half, Simd::Sub(a, b));
      }
    }
  }
  for (int32_t i = 0; i < size; i += 16) {
    F even = Simd::Zero();
    F odd = Simd::Zero();
    for (int j = 0; j < 16; j += 2) {
      even = Simd::Fma(Simd::Load(kHadamard16[j]), Simd::Set(x[i + j]), even);
      odd = Simd::Fma(Simd::Load(kHadamard16[j + 1]), Simd::Set(x[i + j + 1]), odd);
    }
    Simd::Store(x + i, Simd::Add(even, odd));
  }
}

inline void HadamardOfFew(float* x, int32_t size) {
  for (int32_t half = 1; half < size; half *= 2) {
    for (int32_t begin = 0; begin < size; begin += 2 * half) {
      for (int32_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
}

void RotateVector(float* x, const float* signs, int32_t dim, bool back) {
  for (int32_t i = 0; i < dim && !back; ++i) {
    x[i] *= signs[i];
  }
  for (int32_t done = 0; done < dim;) {
    int32_t size = 1;
    while (2 * size <= dim - done) {
      size *= 2;
    }
    float* block = x + done;
    if (size >= 16) {
      HadamardOfSixteens(block, size);
    } else {
      HadamardOfFew(block, size);
    }
    const float scale = 1.0F / __builtin_sqrtf(static_cast<float>(size));
    for (int32_t i = 0; i < size; ++i) {
      block[i] *= scale;
    }
    done += size;
  }
  for (int32_t i = 0; i < dim && back; ++i) {
    x[i] *= signs[i];
  }
}

}  // namespace
