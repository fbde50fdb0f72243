#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "kernels/device.h"

namespace thermocline {

// Another device whose background streams, which move pages, fail, or wait, when a test says so.
class FaultyDevice : public Device {
 public:
  explicit FaultyDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  Result<Buffer> Allocate(size_t bytes, Placement placement) override {
    return device_->Allocate(bytes, placement);
  }
  using Device::NewStream;
  std::unique_ptr<Stream> NewStream(StreamPriority priority) override {
    std::unique_ptr<Stream> stream = device_->NewStream(priority);
    if (priority != StreamPriority::kBackground) {
      return stream;
    }
    return std::make_unique<FaultyStream>(std::move(stream), on_sync);
  }
  const Ops& ops() const override { return device_->ops(); }
  uint64_t AvailableBytes() const override { return device_->AvailableBytes(); }
  bool IsHostMemory() const override { return device_->IsHostMemory(); }

  // Called at each Sync of any background stream, on its thread. Set before the first stream is
  // made.
  std::function<Status()> on_sync = [] { return Status(); };

 private:
  class FaultyStream : public Stream {
   public:
    FaultyStream(std::unique_ptr<Stream> stream, std::function<Status()> on_sync)
        : stream_(std::move(stream)), on_sync_(std::move(on_sync)) {}
    void Copy(std::byte* dst, const std::byte* src, size_t bytes) override {
      stream_->Copy(dst, src, bytes);
    }
    Status Sync() override {
      RETURN_IF_ERROR(on_sync_());
      return stream_->Sync();
    }

   private:
    std::unique_ptr<Stream> stream_;
    std::function<Status()> on_sync_;
  };

  std::unique_ptr<Device> device_;
};

}  // namespace thermocline
