#include "kernels/make_device.h"

#include <utility>

#include "kernels/cpu/cpu_device.h"

namespace thermocline {

Result<std::unique_ptr<Device>> MakeDevice(const DeviceOptions& options) {
  if (options.kind == DeviceKind::kCuda) {
    return Unimplemented("this build has no CUDA device");
  }
  if (options.index != 0) {
    return InvalidArgument("there is no CPU device {}, only 0", options.index);
  }
  Result<std::unique_ptr<CpuDevice>> device =
      CpuDevice::Create({.num_threads = options.num_threads, .isa = options.cpu_isa});
  if (!device.ok()) {
    return device.status();
  }
  return std::unique_ptr<Device>(*std::move(device));
}

}  // namespace thermocline
