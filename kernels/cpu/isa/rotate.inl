// Rotations of the vectors of heads: rotary positions (kernels/core/rope.h) and the random-sign
// Hadamard rotation (kernels/core/hadamard.h). Hadamard stages have the reference's order, which
// makes them equal to it bit for bit. For any Simd of 16 lanes.

namespace {

alignas(64) constexpr float kStageSigns[4][16] = {
    {1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F,
     1.0F, -1.0F},
    {1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F, -1.0F, -1.0F, 1.0F, 1.0F,
     -1.0F, -1.0F},
    {1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, 1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F,
     -1.0F, -1.0F},
    {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F, -1.0F,
     -1.0F, -1.0F},
};

// Puts sums into the lower lanes of each pair of runs, differences into the upper ones.
template <int kRun>
inline F LaneStage(F x, const float* signs) {
  return Simd::Fma(x, Simd::Load(signs), Simd::SwapRuns<kRun>(x));
}

// Computes x [16 kVectors] = H x, not scaled, all of it in registers.
template <int kVectors>
inline void HadamardOfSixteens(float* x) {
  F v[kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    v[i] = LaneStage<1>(Simd::Load(x + 16 * i), kStageSigns[0]);
    v[i] = LaneStage<2>(v[i], kStageSigns[1]);
    v[i] = LaneStage<4>(v[i], kStageSigns[2]);
    v[i] = LaneStage<8>(v[i], kStageSigns[3]);
  }
#pragma GCC unroll 4
  for (int half = 1; half < kVectors; half *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) {
      if ((i & half) == 0) {
        const F a = v[i];
        v[i] = Simd::Add(a, v[i + half]);
        v[i + half] = Simd::Sub(a, v[i + half]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    Simd::Store(x + 16 * i, v[i]);
  }
}

// Runs the stages for runs of `half` elements and longer.
inline void HadamardStages(float* x, int32_t size, int32_t half) {
  for (; half < size; half *= 2) {
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

inline void HadamardOf(float* x, int32_t size) {
  switch (size) {
    case 16:
      return HadamardOfSixteens<1>(x);
    case 32:
      return HadamardOfSixteens<2>(x);
    case 64:
      return HadamardOfSixteens<4>(x);
    case 128:
      return HadamardOfSixteens<8>(x);
    default:
      break;
  }
  int32_t done = 1;
  for (int32_t i = 0; size > 128 && i < size; i += 128) {
    HadamardOfSixteens<8>(x + i);
    done = 128;
  }
  HadamardStages(x, size, done);
}

// 1 / sqrt(size) for a power of two, as the reference has it.
inline float InverseRootOf(int32_t size) {
  float halvings = 1.0F;
  for (; size >= 4; size /= 4) {
    halvings *= 0.5F;
  }
  return size == 2 ? halvings * 0.70710678F : halvings;
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
    HadamardOf(block, size);
    const float scale = InverseRootOf(size);
    for (int32_t i = 0; i < size; ++i) {
      block[i] *= scale;
    }
    done += size;
  }
  for (int32_t i = 0; i < dim && back; ++i) {
    x[i] *= signs[i];
  }
}

// Rotates pairs [begin, end) of one head, whose elements are step * i and step * i + partner.
inline void RotatePairs(float* head, const float* angles, int32_t begin, int32_t end, int32_t step,
                        int32_t partner) {
  for (int32_t i = begin; i < end; ++i) {
    const float cos = angles[2 * i];
    const float sin = angles[2 * i + 1];
    const float a = head[i * step];
    const float b = head[i * step + partner];
    head[i * step] = a * cos - b * sin;
    head[i * step + partner] = a * sin + b * cos;
  }
}

// Rotates eight pairs that lie side by side in 16 lanes.
inline void RopeInterleaved(const RopeHeads& rope) {
  const int32_t whole = rope.num_pairs / 8 * 8;
  for (int32_t pair = 0; pair < whole; pair += 8) {
    float cos[16];
    float sin[16];
    for (int i = 0; i < 8; ++i) {
      cos[2 * i] = cos[2 * i + 1] = rope.angles[2 * (pair + i)];
      sin[2 * i + 1] = rope.angles[2 * (pair + i) + 1];
      sin[2 * i] = -sin[2 * i + 1];
    }
    for (int32_t h = 0; h < rope.num_heads; ++h) {
      float* x = rope.heads + int64_t{h} * rope.head_dim + 2 * pair;
      const F both = Simd::Load(x);
      Simd::Store(
          x, Simd::Fma(both, Simd::Load(cos), Simd::Mul(Simd::SwapRuns<1>(both), Simd::Load(sin))));
    }
  }
  for (int32_t h = 0; h < rope.num_heads; ++h) {
    RotatePairs(rope.heads + int64_t{h} * rope.head_dim, rope.angles, whole, rope.num_pairs, 2, 1);
  }
}

// Rotates sixteen pairs, whose elements are num_pairs apart.
inline void RopeHalves(const RopeHeads& rope) {
  const int32_t whole = rope.num_pairs / 16 * 16;
  for (int32_t pair = 0; pair < whole; pair += 16) {
    float cos[16];
    float sin[16];
    for (int i = 0; i < 16; ++i) {
      cos[i] = rope.angles[2 * (pair + i)];
      sin[i] = rope.angles[2 * (pair + i) + 1];
    }
    for (int32_t h = 0; h < rope.num_heads; ++h) {
      float* x = rope.heads + int64_t{h} * rope.head_dim + pair;
      const F a = Simd::Load(x);
      const F b = Simd::Load(x + rope.num_pairs);
      Simd::Store(x, Simd::Sub(Simd::Mul(a, Simd::Load(cos)), Simd::Mul(b, Simd::Load(sin))));
      Simd::Store(x + rope.num_pairs, Simd::Fma(a, Simd::Load(sin), Simd::Mul(b, Simd::Load(cos))));
    }
  }
  for (int32_t h = 0; h < rope.num_heads; ++h) {
    RotatePairs(rope.heads + int64_t{h} * rope.head_dim, rope.angles, whole, rope.num_pairs, 1,
                rope.num_pairs);
  }
}

void RopeRow(const RopeHeads& rope) {
  if (rope.interleaved) {
    RopeInterleaved(rope);
  } else {
    RopeHalves(rope);
  }
}

}  // namespace
