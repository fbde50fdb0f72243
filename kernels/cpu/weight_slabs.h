#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// Memory of packed weights, cut out of large buffers: a matrix of a few hundred KiB with a mapping
// of its own would lie in 4 KiB pages, which read at two thirds of the bandwidth of huge ones.
// Thread-safe.
class WeightSlabs {
 public:
  struct Block {
    // Shared, because a slab goes with the last of its weights and none of them knows the others.
    std::shared_ptr<const Buffer> slab;
    std::byte* data = nullptr;  // zeros, aligned to a cache line
  };

  // kResourceExhausted when there is no memory.
  Result<Block> Allocate(size_t bytes);

 private:
  std::mutex mutex_;  // guards slab_ and used_
  std::shared_ptr<const Buffer> slab_;
  size_t used_ = 0;  // bytes of slab_
};

}  // namespace thermocline
