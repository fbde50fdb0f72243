#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"

namespace thermocline {

// The operations of a device, and host arrays on their way there and back. Memory is given back
// when the rig goes.
class OpsRig {
 public:
  explicit OpsRig(std::unique_ptr<Device> device)
      : device_(std::move(device)), stream_(device_->NewStream()) {}
  ~OpsRig() { Sync(); }
  OpsRig(const OpsRig&) = delete;
  OpsRig& operator=(const OpsRig&) = delete;

  Device& device() { return *device_; }
  const Ops& ops() const { return device_->ops(); }
  Stream& stream() { return *stream_; }
  void Sync() {
    CHECK(stream_->Sync().ok());
    staged_.clear();
  }

  // What was uploaded is not used any more: its memory serves what comes next.
  void Reuse() {
    Sync();
    num_used_ = 0;
  }

  // A copy on the device. Null for nothing.
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    if (values.empty()) {
      return nullptr;
    }
    const auto given = std::as_bytes(std::span(values));
    const std::vector<std::byte>& bytes = staged_.emplace_back(given.begin(), given.end());
    std::byte* data = Room(bytes.size());
    stream_->Copy(data, bytes.data(), bytes.size());
    return static_cast<T*>(static_cast<void*>(data));
  }
  Tensor Upload(const std::vector<float>& values, std::initializer_list<int64_t> dims) {
    return {Upload(values), dims};
  }

  // What is there once all that was enqueued has run.
  template <typename T>
  std::vector<T> Download(const T* data, size_t count) {
    std::vector<T> values(count);
    stream_->Copy(std::as_writable_bytes(std::span(values)).data(),
                  static_cast<const std::byte*>(static_cast<const void*>(data)), count * sizeof(T));
    Sync();
    return values;
  }
  std::vector<float> Download(Tensor tensor) {
    return Download(static_cast<const float*>(tensor.f32()),
                    static_cast<size_t>(tensor.num_elements()));
  }

 private:
  std::byte* Room(size_t bytes) {
    if (num_used_ == buffers_.size()) {
      buffers_.emplace_back();
    }
    Buffer& buffer = buffers_[num_used_++];
    if (buffer.bytes() < bytes) {
      buffer = device_->Allocate(bytes, Placement::kDevice).value();
    }
    return buffer.data();
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::vector<Buffer> buffers_;
  size_t num_used_ = 0;                        // of buffers_
  std::deque<std::vector<std::byte>> staged_;  // what is uploaded, until Sync
};

}  // namespace thermocline
