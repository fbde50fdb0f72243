#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/device.h"
#include "tests/testing/delayed_ops.h"
#include "tests/testing/device_window.h"

namespace thermocline {

// A stand-in for a GPU around another device, whose operations compute in host memory.
//
// The host cannot touch its memory: a buffer of Placement::kDevice is mapped twice, and the address
// that is handed out is of the mapping without any access, so that a read or a write by the host
// ends the process. The operations see the other mapping. Nothing runs before Sync, and then on the
// stream's own thread: who reads a result too early, or changes what has not been copied yet, finds
// out each time. It checks that tensors are in its memory, that the sources of copies stay as they
// were until Sync, and that a stream is synced before it goes.
class DelayedDevice : public Device {
 public:
  explicit DelayedDevice(std::unique_ptr<Device> device);

  Result<Buffer> Allocate(size_t bytes, Placement placement) override;
  using Device::NewStream;
  std::unique_ptr<Stream> NewStream(StreamPriority priority) override;
  const Ops& ops() const override { return ops_; }
  uint64_t AvailableBytes() const override { return device_->AvailableBytes(); }
  bool IsHostMemory() const override { return false; }

 private:
  std::unique_ptr<Device> device_;
  DeviceWindow window_;
  DelayedOps ops_;
};

}  // namespace thermocline
