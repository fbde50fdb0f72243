#include "kernels/cpu/isa/isa_level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace thermocline {

const char* IsaName(IsaLevel level) {
  switch (level) {
    case IsaLevel::kGeneric:
      return "generic";
    case IsaLevel::kAvx2:
      return "avx2";
    case IsaLevel::kAvx512:
      return "avx512-vnni";
    case IsaLevel::kAvx512Bf16:
      return "avx512-bf16";
  }
  return "unknown";
}

#if defined(__x86_64__)
namespace {

// clang 14 has no name for this bit. It is of the registers that AVX2 needs too, so its check that
// the kernel saves them holds here.
bool HasF16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// Leaf 7, subleaf 1: g++ 12's __builtin_cpu_supports knows it, clang 14's does not.
bool HasAvx512Bf16() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1U << 5) != 0;
}

}  // namespace
#endif

IsaLevel DetectIsa() {
#if defined(__x86_64__)
  // These look at XCR0 too: a register file that the kernel does not save counts as absent.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && HasF16c()) {
    return HasAvx512Bf16() ? IsaLevel::kAvx512Bf16 : IsaLevel::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c()) {
    return IsaLevel::kAvx2;
  }
#endif
  return IsaLevel::kGeneric;
}

}  // namespace thermocline
