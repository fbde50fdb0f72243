#pragma once

#include <atomic>
#include <cstddef>
#include <type_traits>

#include "kernels/base/check.h"
#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// Addresses of memory that the host may not touch, and, kBytes behind each, where the same bytes
// can be touched. DelayedDevice's.
class DeviceWindow {
 public:
  static constexpr size_t kBytes = size_t{1} << 34;

  DeviceWindow();
  ~DeviceWindow();
  DeviceWindow(const DeviceWindow&) = delete;
  DeviceWindow& operator=(const DeviceWindow&) = delete;

  Result<Buffer> Allocate(size_t bytes);

  bool Holds(const void* address) const {
    const auto* byte = static_cast<const std::byte*>(address);
    return byte >= base_ && byte < base_ + kBytes;
  }
  // Where an operation finds what is at `address`, which is in the window or null.
  template <typename T>
  T* Open(T* address) const {
    if (address == nullptr) {
      return nullptr;
    }
    CHECK(Holds(address));
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    using Void = std::conditional_t<std::is_const_v<T>, const void, void>;
    return static_cast<T*>(static_cast<Void*>(reinterpret_cast<Byte*>(address) + kBytes));
  }

 private:
  std::byte* base_;
  std::atomic<size_t> used_ = 0;  // addresses are not used twice
};

}  // namespace thermocline
