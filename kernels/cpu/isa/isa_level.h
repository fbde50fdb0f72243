#pragma once

#include <cstdint>

namespace thermocline {

// The instruction sets that CPU kernels are built for. Each includes those before it.
enum class IsaLevel : uint8_t {
  kGeneric,     // plain C++, any CPU
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL and VNNI
  kAvx512Bf16,  // and BF16
};

const char* IsaName(IsaLevel level);

// The best level of the CPU that this runs on, the operating system's support included.
IsaLevel DetectIsa();

}  // namespace thermocline
