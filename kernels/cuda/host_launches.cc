#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/cuda/attention/attention_block.cuh"
#include "kernels/cuda/attention/attention_merge.cuh"
#include "kernels/cuda/host_launches.h"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/simt/host_grid.h"
#include "kernels/cuda/simt/host_thread.h"

namespace thermocline {
namespace {

template <int kDim, bool kPadded>
void RunAttention(const AttentionLaunch& launch, int num_blocks, GridOrder order) {
  HostGrid(num_blocks, kAttentionThreads, AttentionMemory<kDim>::kBytes, order)
      .Run([&](HostThread& x) { AttentionBlock<HostThread, kDim, kPadded>(x, launch).Run(); });
}

}  // namespace

void LaunchAttentionInOrder(const AttentionLaunch& launch, int num_blocks, GridOrder order) {
  CHECK(launch.head_dim > 0 && launch.head_dim <= 256 && launch.head_dim % 8 == 0);
  *launch.next_item = 0;
  if (launch.page_energy != nullptr) {
    std::fill_n(launch.page_energy, int64_t{launch.num_pages} * (launch.num_heads / launch.group),
                0.0F);
  }
  if (launch.num_items == 0) {
    return;
  }
  const auto run = launch.head_dim == 256   ? RunAttention<256, false>
                   : launch.head_dim > 128  ? RunAttention<256, true>
                   : launch.head_dim == 128 ? RunAttention<128, false>
                   : launch.head_dim > 64   ? RunAttention<128, true>
                   : launch.head_dim == 64  ? RunAttention<64, false>
                                            : RunAttention<64, true>;
  run(launch, num_blocks, order);
  HostGrid(launch.num_tiles, kAttentionThreads,
           AttentionMerge<HostThread>::SharedBytes(launch.head_dim), order)
      .Run([&](HostThread& x) { AttentionMerge<HostThread>(x, launch).Run(); });
}

void LaunchAttention(const AttentionLaunch& launch, int num_blocks, void* /*stream*/) {
  LaunchAttentionInOrder(launch, num_blocks, {});
}

}  // namespace thermocline
