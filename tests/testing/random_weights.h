#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/quant/weight_blocks.h"

namespace thermocline {

// A matrix of one type with random codes and small scales, and the bytes that it borrows.
struct RandomWeight {
  std::vector<std::byte> bytes;
  WeightSource source;
};

RandomWeight MakeRandomWeight(WeightType type, int64_t rows, int64_t cols, uint32_t seed);

std::vector<float> RandomFloats(size_t count, uint32_t seed, float scale = 1.0F);

inline constexpr WeightType kAllWeightTypes[] = {
    WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0,
    WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0,
    WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K,
};

}  // namespace thermocline
