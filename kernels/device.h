#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "kernels/base/status.h"

namespace thermocline {

class Ops;

// Where a Buffer's bytes live. kDevice: where kernels compute. kHost: memory of the host that the
// device copies to and from fastest (pinned), for staging and results.
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

// What a stream did once and can do again.
class StreamRecording {
 public:
  virtual ~StreamRecording() = default;
};

// Compute: what a step waits for. Background: page moves, which should not slow steps down.
enum class StreamPriority { kCompute, kBackground };

// An in-order queue of work on one device. Work runs when it is enqueued (on the CPU) or later, on
// its own: until Sync has returned, the host leaves alone what the work reads and writes. Used by
// one thread at a time.
class Stream {
 public:
  virtual ~Stream() = default;

  // Between any two of: this device's memory, its host buffers, other host memory. Ranges do not
  // overlap.
  virtual void Copy(std::byte* dst, const std::byte* src, size_t bytes) = 0;

  // Runs `work`, which enqueues on this stream, and keeps what it enqueued instead of running it.
  // Null: this stream cannot, and `work` has not run.
  virtual std::unique_ptr<StreamRecording> Record(const std::function<void()>& /*work*/) {
    return nullptr;
  }
  // Enqueues what Record of this stream gave. It reads and writes the memory that it was recorded
  // with, as it is by then.
  virtual void Replay(const StreamRecording& /*recording*/) {}

  // Waits for all that was enqueued; the first error of any of it since the last Sync.
  virtual Status Sync() = 0;
};

// Memory, queues and operations of one piece of hardware. Outlives what it hands out. Thread-safe.
class Device {
 public:
  virtual ~Device() = default;
  virtual Result<Buffer> Allocate(size_t bytes, Placement placement) = 0;
  // Work on different streams is in no order but by Sync.
  virtual std::unique_ptr<Stream> NewStream(StreamPriority priority) = 0;
  std::unique_ptr<Stream> NewStream() { return NewStream(StreamPriority::kCompute); }
  virtual const Ops& ops() const = 0;
  // What may still be allocated of Placement::kDevice; 0: not known.
  virtual uint64_t AvailableBytes() const = 0;
  // Whether the host may read and write buffers of Placement::kDevice itself, between Sync and the
  // next work on them. Where not, it copies.
  virtual bool IsHostMemory() const = 0;
};

}  // namespace thermocline
