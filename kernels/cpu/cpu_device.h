#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/isa/isa_level.h"
#include "kernels/device.h"

namespace thermocline {

// The host's cores and memory. Streams run inline on the thread that enqueues.
class CpuDevice final : public Device {
 public:
  struct Options {
    int num_threads = 1;          // of the compute stream, the calling thread included
    std::optional<IsaLevel> isa;  // nothing: the best of this CPU
    bool reference = false;       // ReferenceOps: plain float32 loops, the oracle of tests
  };
  // kFailedPrecondition when the CPU lacks the instruction set asked for.
  static Result<std::unique_ptr<CpuDevice>> Create(const Options& options);
  ~CpuDevice() override;

  Result<Buffer> Allocate(size_t bytes, Placement placement) override;
  using Device::NewStream;
  std::unique_ptr<Stream> NewStream(StreamPriority priority) override;
  const Ops& ops() const override { return *ops_; }
  uint64_t AvailableBytes() const override;  // of the machine and the process's cgroup
  bool IsHostMemory() const override { return true; }
  IsaLevel isa() const { return isa_; }

 private:
  CpuDevice(const Options& options, IsaLevel isa);

  IsaLevel isa_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Ops> ops_;
};

// Zeroed anonymous memory in huge pages where the system gives them.
Result<Buffer> AllocateHostBuffer(size_t bytes);

}  // namespace thermocline
