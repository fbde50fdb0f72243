#include <array>
#include <bit>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/core/half.h"
#include "kernels/quant/weight_blocks.h"

// Every multiplication and addition below is in float and in the order of the reference, so that
// results are equal to the last bit.

namespace thermocline {
namespace {

const uint8_t* Bytes(const std::byte* src) { return reinterpret_cast<const uint8_t*>(src); }

uint16_t Load16(const uint8_t* src) {
  uint16_t value = 0;
  std::memcpy(&value, src, sizeof(value));
  return value;
}

uint32_t Load32(const uint8_t* src) {
  uint32_t value = 0;
  std::memcpy(&value, src, sizeof(value));
  return value;
}

// fp16 d, 16 bytes: element i in the low nibble of byte i, element i + 16 in the high one.
void DequantizeQ4_0(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  const uint8_t* codes = block + 2;
  for (int i = 0; i < 16; ++i) {
    dst[i] = d * static_cast<float>((codes[i] & 0xf) - 8);
    dst[i + 16] = d * static_cast<float>((codes[i] >> 4) - 8);
  }
}

// fp16 d, fp16 m, nibbles as Q4_0.
void DequantizeQ4_1(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  const float m = HalfToFloat(Load16(block + 2));
  const uint8_t* codes = block + 4;
  for (int i = 0; i < 16; ++i) {
    dst[i] = d * static_cast<float>(codes[i] & 0xf) + m;
    dst[i + 16] = d * static_cast<float>(codes[i] >> 4) + m;
  }
}

// Bit i of `high` is the fifth bit of element i.
int FiveBits(uint8_t nibble, uint32_t high, int i) {
  return nibble | static_cast<int>(high >> i & 1U) << 4;
}

// fp16 d, 32 high bits, nibbles.
void DequantizeQ5_0(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  const uint32_t high = Load32(block + 2);
  const uint8_t* codes = block + 6;
  for (int i = 0; i < 16; ++i) {
    dst[i] = d * static_cast<float>(FiveBits(codes[i] & 0xf, high, i) - 16);
    dst[i + 16] = d * static_cast<float>(FiveBits(codes[i] >> 4, high, i + 16) - 16);
  }
}

// fp16 d, fp16 m, 32 high bits, nibbles.
void DequantizeQ5_1(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  const float m = HalfToFloat(Load16(block + 2));
  const uint32_t high = Load32(block + 4);
  const uint8_t* codes = block + 8;
  for (int i = 0; i < 16; ++i) {
    dst[i] = d * static_cast<float>(FiveBits(codes[i] & 0xf, high, i)) + m;
    dst[i + 16] = d * static_cast<float>(FiveBits(codes[i] >> 4, high, i + 16)) + m;
  }
}

void DequantizeQ8_0(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  for (int i = 0; i < 32; ++i) {
    dst[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
  }
}

// fp16 d, fp16 dmin, 12 bytes of eight 6-bit (scale, min) pairs, 128 nibble bytes: sub-blocks 2j
// and 2j + 1 are the low and high nibbles of bytes [32 j, 32 j + 32).
void DequantizeQ4_K(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  const float dmin = HalfToFloat(Load16(block + 2));
  const uint8_t* codes = block + 16;
  for (int s = 0; s < 8; ++s) {
    const KQuantScale pair = UnpackKQuantScale(reinterpret_cast<const std::byte*>(block + 4), s);
    const float scale = d * static_cast<float>(pair.scale);
    const float min = dmin * static_cast<float>(pair.min);
    const int shift = s % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      dst[32 * s + i] = scale * static_cast<float>(codes[32 * (s / 2) + i] >> shift & 0xf) - min;
    }
  }
}

// Q4_K with 32 bytes of fifth bits between scales and nibbles: bit s of byte i belongs to
// sub-block s.
void DequantizeQ5_K(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block));
  const float dmin = HalfToFloat(Load16(block + 2));
  const uint8_t* high = block + 16;
  const uint8_t* codes = block + 48;
  for (int s = 0; s < 8; ++s) {
    const KQuantScale pair = UnpackKQuantScale(reinterpret_cast<const std::byte*>(block + 4), s);
    const float scale = d * static_cast<float>(pair.scale);
    const float min = dmin * static_cast<float>(pair.min);
    const int shift = s % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int code = (codes[32 * (s / 2) + i] >> shift & 0xf) | (high[i] >> s & 1) << 4;
      dst[32 * s + i] = scale * static_cast<float>(code) - min;
    }
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales (of 16 elements each), fp16 d.
// Each half of 128 elements has four groups of 32: nibble byte 32 (g % 2) + i, nibble g / 2, bit
// pair g of high byte i.
void DequantizeQ6_K(const uint8_t* block, float* dst) {
  const float d = HalfToFloat(Load16(block + 208));
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = block + 64 * half;
    const uint8_t* high = block + 128 + 32 * half;
    const uint8_t* scales = block + 192 + 8 * half;
    for (int g = 0; g < 4; ++g) {
      for (int i = 0; i < 32; ++i) {
        const int code = (low[32 * (g % 2) + i] >> g / 2 * 4 & 0xf) | (high[i] >> 2 * g & 3) << 4;
        const auto scale = static_cast<int8_t>(scales[2 * g + i / 16]);
        dst[128 * half + 32 * g + i] =
            d * static_cast<float>(scale) * static_cast<float>(code - 32);
      }
    }
  }
}

using DequantizeBlock = void (*)(const uint8_t* block, float* dst);

DequantizeBlock BlockFunction(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return [](const uint8_t* block, float* dst) { *dst = std::bit_cast<float>(Load32(block)); };
    case WeightType::kF16:
      return [](const uint8_t* block, float* dst) { *dst = HalfToFloat(Load16(block)); };
    case WeightType::kBF16:
      return [](const uint8_t* block, float* dst) { *dst = BFloat16ToFloat(Load16(block)); };
    case WeightType::kQ4_0:
      return DequantizeQ4_0;
    case WeightType::kQ4_1:
      return DequantizeQ4_1;
    case WeightType::kQ5_0:
      return DequantizeQ5_0;
    case WeightType::kQ5_1:
      return DequantizeQ5_1;
    case WeightType::kQ8_0:
      return DequantizeQ8_0;
    case WeightType::kQ4_K:
      return DequantizeQ4_K;
    case WeightType::kQ5_K:
      return DequantizeQ5_K;
    case WeightType::kQ6_K:
      return DequantizeQ6_K;
  }
  return nullptr;
}

}  // namespace

KQuantScale UnpackKQuantScale(const std::byte* packed, int sub_block) {
  const uint8_t* bytes = Bytes(packed);
  const int s = sub_block;
  if (s < 4) {
    return {bytes[s] & 63, bytes[s + 4] & 63};
  }
  return {(bytes[s + 4] & 0xf) | bytes[s - 4] >> 6 << 4, bytes[s + 4] >> 4 | bytes[s] >> 6 << 4};
}

void Dequantize(WeightType type, const std::byte* src, int64_t count, float* dst) {
  const std::optional<WeightTypeInfo> info = GetWeightTypeInfo(type);
  CHECK(info && count % info->block_elements == 0);
  const DequantizeBlock dequantize = BlockFunction(type);
  const uint8_t* block = Bytes(src);
  for (int64_t i = 0; i < count; i += info->block_elements) {
    dequantize(block, dst + i);
    block += info->block_bytes;
  }
}

}  // namespace thermocline
