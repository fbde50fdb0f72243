#pragma once

#include <cstddef>

#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// Device memory for the host to read: itself where the host may read it, else a copy in a buffer
// that it keeps and enlarges. Used by one thread; the device outlives it.
class HostCopy {
 public:
  explicit HostCopy(Device& device) : device_(device) {}

  // To be read once the stream has been synced, and until the next call or the next work on `src`.
  // An error: there is no memory for the copy.
  Result<const std::byte*> Read(const std::byte* src, size_t bytes, Stream& stream);
  // The same of `count` floats.
  Result<const float*> Read(const float* src, size_t count, Stream& stream);

 private:
  Device& device_;
  Buffer buffer_;
};

// Makes `buffer` one of at least `bytes`. What it held may be gone.
Status Reserve(Device& device, size_t bytes, Placement placement, Buffer& buffer);

}  // namespace thermocline
