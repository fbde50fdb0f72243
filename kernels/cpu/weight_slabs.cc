#include "kernels/cpu/weight_slabs.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/cpu_device.h"

namespace thermocline {
namespace {

constexpr size_t kSlabBytes = size_t{32} << 20;  // what is not used is never touched
constexpr size_t kLineBytes = 64;

}  // namespace

Result<WeightSlabs::Block> WeightSlabs::Allocate(size_t bytes) {
  const std::scoped_lock lock(mutex_);
  if (slab_ == nullptr || slab_->bytes() - used_ < bytes) {
    Result<Buffer> slab = AllocateHostBuffer(std::max(bytes, kSlabBytes));
    if (!slab.ok()) {
      return slab.status();
    }
    slab_ = std::make_shared<const Buffer>(*std::move(slab));
    used_ = 0;
  }
  Block block{.slab = slab_, .data = slab_->data() + used_};
  used_ = std::min(slab_->bytes(), used_ + (bytes + kLineBytes - 1) / kLineBytes * kLineBytes);
  return block;
}

}  // namespace thermocline
