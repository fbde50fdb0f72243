#include "tests/testing/delayed_device.h"

#include <utility>

namespace thermocline {

DelayedDevice::DelayedDevice(std::unique_ptr<Device> device)
    : device_(std::move(device)), ops_(device_->ops(), window_) {}

Result<Buffer> DelayedDevice::Allocate(size_t bytes, Placement placement) {
  return placement == Placement::kDevice ? window_.Allocate(bytes)
                                         : device_->Allocate(bytes, placement);
}

std::unique_ptr<Stream> DelayedDevice::NewStream(StreamPriority priority) {
  return std::make_unique<DelayedStream>(device_->NewStream(priority), window_);
}

}  // namespace thermocline
