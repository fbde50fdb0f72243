#include "kernels/cpu/isa/isa_level.h"

namespace thermocline {

const char* IsaName(IsaLevel level) {
  switch (level) {
    case IsaLevel::kGeneric:
      return "generic";
    case IsaLevel::kAvx2:
      return "avx2";
    case IsaLevel::kAvx512:
      return "avx512-vnni";
  }
  return "unknown";
}

IsaLevel DetectIsa() {
#if defined(__x86_64__)
  // These look at XCR0 too: a register file that the kernel does not save counts as absent.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return IsaLevel::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return IsaLevel::kAvx2;
  }
#endif
  return IsaLevel::kGeneric;
}

}  // namespace thermocline
