#include "engine/kv/host_copy.h"

#include <algorithm>
#include <utility>

namespace thermocline {

Result<const std::byte*> HostCopy::Read(const std::byte* src, size_t bytes, Stream& stream) {
  if (device_.IsHostMemory()) {
    return src;
  }
  RETURN_IF_ERROR(Reserve(device_, bytes, Placement::kHost, buffer_));
  stream.Copy(buffer_.data(), src, bytes);
  return static_cast<const std::byte*>(buffer_.data());
}

Result<const float*> HostCopy::Read(const float* src, size_t count, Stream& stream) {
  Result<const std::byte*> bytes = Read(
      static_cast<const std::byte*>(static_cast<const void*>(src)), count * sizeof(float), stream);
  if (!bytes.ok()) {
    return bytes.status();
  }
  return static_cast<const float*>(static_cast<const void*>(*bytes));
}

Status Reserve(Device& device, size_t bytes, Placement placement, Buffer& buffer) {
  if (buffer.bytes() >= bytes) {
    return {};
  }
  Result<Buffer> larger = device.Allocate(std::max(bytes, 2 * buffer.bytes()), placement);
  if (!larger.ok()) {
    return larger.status();
  }
  buffer = *std::move(larger);
  return {};
}

}  // namespace thermocline
