#include "tests/testing/delayed_device.h"
#include "tests/testing/test_device.h"

namespace thermocline {

std::unique_ptr<Device> AsTestDevice(std::unique_ptr<Device> cpu) {
  return std::make_unique<DelayedDevice>(std::move(cpu));
}

}  // namespace thermocline
