#include "kernels/cpu/cpu_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/available_memory.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/reference/reference_ops.h"

namespace thermocline {
namespace {

// Everything has run by the time it was enqueued.
class InlineStream final : public Stream {
 public:
  void Copy(std::byte* dst, const std::byte* src, size_t bytes) override {
    std::memmove(dst, src, bytes);
  }
  Status Sync() override { return {}; }
};

void Unmap(std::byte* data, size_t bytes) { munmap(data, bytes); }

}  // namespace

Result<Buffer> AllocateHostBuffer(size_t bytes) {
  if (bytes == 0) {
    return Buffer();
  }
  constexpr size_t kPage = 4096;
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* mapping = mmap(nullptr, rounded + slack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return ResourceExhausted("{} bytes of memory: {}", bytes, std::strerror(errno));
  }
  auto* data = static_cast<std::byte*>(mapping);
  if (slack > 0) {  // a large buffer starts where a huge page can
    const size_t before = -reinterpret_cast<uintptr_t>(data) % kHugePage;
    Unmap(data, before);
    data += before;
    Unmap(data + rounded, slack - before);
  }
  // Streaming through 4 KiB pages costs a fifth of the bandwidth. A hint: failure is no error.
  madvise(data, bytes, MADV_HUGEPAGE);
  return Buffer(data, bytes, Unmap);
}

Result<std::unique_ptr<CpuDevice>> CpuDevice::Create(const Options& options) {
  CHECK(options.num_threads >= 1);
  const IsaLevel best = DetectIsa();
  const IsaLevel isa = options.isa.value_or(best);
  if (!CpuHas(isa)) {
    return FailedPrecondition("this CPU has no {}; its best is {}", IsaName(isa), IsaName(best));
  }
  return std::unique_ptr<CpuDevice>(new CpuDevice(options, isa));  // NOLINT: private constructor
}

CpuDevice::CpuDevice(const Options& options, IsaLevel isa)
    : isa_(isa), pool_(std::make_unique<ThreadPool>(options.num_threads)) {
  if (options.reference) {
    ops_ = std::make_unique<ReferenceOps>(*pool_);
  } else {
    ops_ = std::make_unique<CpuOps>(isa, *pool_);
  }
}

CpuDevice::~CpuDevice() = default;

Result<Buffer> CpuDevice::Allocate(size_t bytes, Placement /*placement*/) {
  return AllocateHostBuffer(bytes);
}

std::unique_ptr<Stream> CpuDevice::NewStream(StreamPriority /*priority*/) {
  return std::make_unique<InlineStream>();
}

uint64_t CpuDevice::AvailableBytes() const { return AvailableMemoryBytes("/"); }

}  // namespace thermocline
