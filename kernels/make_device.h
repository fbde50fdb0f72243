#pragma once

#include <memory>
#include <optional>

#include "kernels/base/status.h"
#include "kernels/cpu/isa/isa_level.h"
#include "kernels/device.h"

namespace thermocline {

enum class DeviceKind { kCpu, kCuda };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;                    // of the devices of this kind; there is one CPU
  int num_threads = 1;              // of the CPU's compute streams
  std::optional<IsaLevel> cpu_isa;  // of the CPU's kernels; nothing: its best
};

// The one place that knows which kinds of device this build has. kUnimplemented for a kind that it
// lacks, kInvalidArgument for an index beyond the last, kFailedPrecondition for an instruction set
// that the CPU lacks.
Result<std::unique_ptr<Device>> MakeDevice(const DeviceOptions& options);

}  // namespace thermocline
