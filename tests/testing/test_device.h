#pragma once

#include <memory>
#include <utility>

#include "kernels/cpu/cpu_device.h"
#include "kernels/device.h"

namespace thermocline {

// What tests of the engine run on: `cpu` itself or, in a program that is linked with
// delayed_test_device.cc instead of cpu_test_device.cc, a DelayedDevice around it.
std::unique_ptr<Device> AsTestDevice(std::unique_ptr<Device> cpu);

inline std::unique_ptr<Device> MakeTestDevice(int num_threads) {
  return AsTestDevice(CpuDevice::Create({.num_threads = num_threads}).value());
}

}  // namespace thermocline
