#include "kernels/cpu/isa/isa_level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace thermocline {

const char* IsaName(IsaLevel level) {
  switch (level) {
    case IsaLevel::kGeneric:
      return "generic";
    case IsaLevel::kAvx2:
      return "avx2";
    case IsaLevel::kAvxVnni:
      return "avx-vnni";
    case IsaLevel::kAvx512:
      return "avx512-vnni";
    case IsaLevel::kAmx:
      return "amx-int8";
  }
  return "unknown";
}

std::optional<IsaLevel> IsaNamed(std::string_view name) {
  for (const IsaLevel level : kIsaLevels) {
    if (name == IsaName(level)) {
      return level;
    }
  }
  return std::nullopt;
}

#if defined(__x86_64__)
namespace {

struct Registers {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
};

// Bits that clang 14 has no name for; zeros where the CPU has no such leaf.
Registers CpuId(unsigned leaf, unsigned subleaf) {
  Registers out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) {
    return {};
  }
  return out;
}

// __builtin_cpu_supports looks at XCR0 too: a register file that the kernel does not save counts as
// absent. F16C and AVX-VNNI use those of AVX2.
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         (CpuId(1, 0).ecx & bit_F16C) != 0;
}

bool HasAvxVnni() { return HasAvx2() && (CpuId(7, 1).eax & 1U << 4) != 0; }

bool HasAvx512Vnni() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// The registers of AMX are 8 KiB a thread, which Linux keeps only for a process that asked
// (Documentation/x86/xstate.rst); it says no where the CPU or the machine's host does not save
// them.
bool HasAmx() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  const unsigned features = CpuId(7, 0).edx;
  return HasAvx512Vnni() && (features & 1U << 24) != 0 && (features & 1U << 25) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool CpuHas(IsaLevel level) {
  static const bool has_amx = HasAmx();
  switch (level) {
    case IsaLevel::kGeneric:
      return true;
    case IsaLevel::kAvx2:
      return HasAvx2();
    case IsaLevel::kAvxVnni:
      return HasAvxVnni();
    case IsaLevel::kAvx512:
      return HasAvx512Vnni();
    case IsaLevel::kAmx:
      return has_amx;
  }
  return false;
}
#else
bool CpuHas(IsaLevel level) { return level == IsaLevel::kGeneric; }
#endif

IsaLevel DetectIsa() {
  IsaLevel best = IsaLevel::kGeneric;
  for (const IsaLevel level : kIsaLevels) {
    if (CpuHas(level)) {
      best = level;
    }
  }
  return best;
}

}  // namespace thermocline
