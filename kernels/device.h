#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "kernels/base/status.h"

namespace thermocline {

class Ops;

// Where a Buffer's bytes live. kDevice: where kernels compute. kHost: for staging and results.
enum class Placement { kDevice, kHost };

// Owned memory, aligned to 4 KiB or more, zeroed, freed with the object. Move-only.
class Buffer {
 public:
  using Free = void (*)(std::byte* data, size_t bytes);

  Buffer() = default;
  Buffer(std::byte* data, size_t bytes, Free free) : data_(data), bytes_(bytes), free_(free) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        free_(other.free_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(free_, other.free_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ != nullptr) {
      free_(data_, bytes_);
    }
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  Free free_ = nullptr;
};

// An in-order queue of work on one device. On the CPU the compute stream runs inline.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void Copy(std::byte* dst, const std::byte* src, size_t bytes) = 0;
  // Waits for all that was enqueued; the first error of any of it since the last Sync.
  virtual Status Sync() = 0;
};

// Memory, queues and operations of one piece of hardware. Outlives what it hands out.
class Device {
 public:
  virtual ~Device() = default;
  virtual Result<Buffer> Allocate(size_t bytes, Placement placement) = 0;
  virtual std::unique_ptr<Stream> NewStream() = 0;
  virtual const Ops& ops() const = 0;
};

}  // namespace thermocline
