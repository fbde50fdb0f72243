#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace thermocline {

// The instruction sets that CPU kernels are built for, from slow to fast. A CPU need not have all
// those before one that it has.
enum class IsaLevel : uint8_t {
  kGeneric,  // plain C++, any CPU
  kAvx2,     // AVX2, FMA, F16C
  kAvxVnni,  // and AVX-VNNI
  kAvx512,   // AVX2, FMA, F16C, AVX-512 F, BW, DQ, VL and VNNI
  kAmx,      // and AMX-TILE, AMX-INT8
};
inline constexpr IsaLevel kIsaLevels[] = {IsaLevel::kGeneric, IsaLevel::kAvx2, IsaLevel::kAvxVnni,
                                          IsaLevel::kAvx512, IsaLevel::kAmx};

const char* IsaName(IsaLevel level);
std::optional<IsaLevel> IsaNamed(std::string_view name);

// Whether the CPU that this runs on and its operating system have all of it. The first call asks
// Linux for the tiles of AMX, which threads made later may use too.
bool CpuHas(IsaLevel level);
// The best level that they have.
IsaLevel DetectIsa();

}  // namespace thermocline
