#pragma once

#include <cstdlib>
#include <memory>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_device.h"

namespace thermocline {

// With the instructions that THERMOCLINE_CPU_ISA names, as `thermocline serve` takes them.
inline std::unique_ptr<CpuDevice> BenchDevice(int num_threads) {
  CpuDevice::Options options{.num_threads = num_threads};
  if (const char* name = std::getenv("THERMOCLINE_CPU_ISA")) {
    options.isa = IsaNamed(name);
    CHECK(options.isa.has_value());
  }
  return CpuDevice::Create(options).value();
}

}  // namespace thermocline
