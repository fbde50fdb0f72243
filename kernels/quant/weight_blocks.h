#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

// The block formats of quantised weights in GGUF files (ggml's block_* layouts). They are a file
// format: sizes and field orders must not change.

namespace thermocline {

// Values are GGUF's type numbers.
enum class WeightType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct WeightTypeInfo {
  const char* name;
  int block_elements;  // consecutive elements of a row that share one block
  int block_bytes;
};

// Nothing for a type that this engine does not read.
constexpr std::optional<WeightTypeInfo> GetWeightTypeInfo(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return WeightTypeInfo{"F32", 1, 4};
    case WeightType::kF16:
      return WeightTypeInfo{"F16", 1, 2};
    case WeightType::kBF16:
      return WeightTypeInfo{"BF16", 1, 2};
    case WeightType::kQ4_0:
      return WeightTypeInfo{"Q4_0", 32, 18};
    case WeightType::kQ4_1:
      return WeightTypeInfo{"Q4_1", 32, 20};
    case WeightType::kQ5_0:
      return WeightTypeInfo{"Q5_0", 32, 22};
    case WeightType::kQ5_1:
      return WeightTypeInfo{"Q5_1", 32, 24};
    case WeightType::kQ8_0:
      return WeightTypeInfo{"Q8_0", 32, 34};
    case WeightType::kQ4_K:
      return WeightTypeInfo{"Q4_K", 256, 144};
    case WeightType::kQ5_K:
      return WeightTypeInfo{"Q5_K", 256, 176};
    case WeightType::kQ6_K:
      return WeightTypeInfo{"Q6_K", 256, 210};
  }
  return std::nullopt;
}

// A matrix as a checkpoint holds it: `rows` outputs of `cols` inputs each, row-major, in the file's
// own encoding. Borrows the bytes (a mapped file), which must outlive it.
struct WeightSource {
  WeightType type = WeightType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;

  // cols is a multiple of the type's block_elements; loaders check that.
  size_t row_bytes() const {
    const WeightTypeInfo info = *GetWeightTypeInfo(type);
    return static_cast<size_t>(cols) / static_cast<size_t>(info.block_elements) *
           static_cast<size_t>(info.block_bytes);
  }
};

// The 6-bit scale and min of one of the eight 32-element sub-blocks of a Q4_K or Q5_K block, from
// the 12 bytes that pack them.
struct KQuantScale {
  int scale = 0;
  int min = 0;
};
KQuantScale UnpackKQuantScale(const std::byte* packed, int sub_block);

// Decodes `count` elements (a multiple of the type's block_elements) that start at `src` into
// `dst`. Bit-exact with the dequantisation of the `gguf` Python package. `src` need not be aligned.
void Dequantize(WeightType type, const std::byte* src, int64_t count, float* dst);

}  // namespace thermocline
