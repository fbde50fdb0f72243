#include "tests/testing/random_weights.h"

#include <cstring>

#include "kernels/core/half.h"

namespace thermocline {
namespace {

// Where a block keeps its half-precision scales; everything else may be any bits.
std::vector<size_t> ScaleOffsets(WeightType type) {
  switch (type) {
    case WeightType::kQ4_0:
    case WeightType::kQ5_0:
    case WeightType::kQ8_0:
      return {0};
    case WeightType::kQ4_1:
    case WeightType::kQ5_1:
    case WeightType::kQ4_K:
    case WeightType::kQ5_K:
      return {0, 2};
    case WeightType::kQ6_K:
      return {208};
    case WeightType::kF32:
    case WeightType::kF16:
    case WeightType::kBF16:
      break;
  }
  return {};
}

}  // namespace

std::vector<float> RandomFloats(size_t count, uint32_t seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

RandomWeight MakeRandomWeight(WeightType type, int64_t rows, int64_t cols, uint32_t seed) {
  RandomWeight weight;
  weight.source = {.type = type, .rows = rows, .cols = cols};
  const WeightTypeInfo info = *GetWeightTypeInfo(type);
  weight.bytes.resize(static_cast<size_t>(rows) * weight.source.row_bytes());
  std::mt19937 random(seed);
  if (info.block_elements == 1) {
    const std::vector<float> values = RandomFloats(static_cast<size_t>(rows * cols), seed, 0.1F);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto bits = std::bit_cast<uint32_t>(values[i]);
      const uint16_t half =
          type == WeightType::kF16 ? FloatToHalf(values[i]) : static_cast<uint16_t>(bits >> 16);
      if (type == WeightType::kF32) {
        std::memcpy(weight.bytes.data() + 4 * i, &bits, 4);
      } else {
        std::memcpy(weight.bytes.data() + 2 * i, &half, 2);
      }
    }
  } else {
    for (std::byte& byte : weight.bytes) {
      byte = static_cast<std::byte>(random());
    }
    std::uniform_real_distribution<float> scale(0.001F, 0.02F);
    const auto block_bytes = static_cast<size_t>(info.block_bytes);
    for (size_t block = 0; block < weight.bytes.size(); block += block_bytes) {
      for (const size_t offset : ScaleOffsets(type)) {
        const uint16_t half = FloatToHalf(scale(random));
        std::memcpy(weight.bytes.data() + block + offset, &half, sizeof(half));
      }
    }
  }
  weight.source.data = weight.bytes.data();
  return weight;
}

}  // namespace thermocline
