#include <cuda_runtime.h>

#include "kernels/cuda/attention/attention_block.cuh"
#include "kernels/cuda/attention/attention_merge.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/simt/device_thread.cuh"

namespace thermocline {
namespace {

template <int kDim, bool kPadded>
__global__ void __launch_bounds__(kAttentionThreads, kDim == 256   ? 1
                                                     : kDim == 128 ? 2
                                                                   : 3)
    AttentionKernel(const __grid_constant__ AttentionLaunch launch) {
  DeviceThread thread;
  AttentionBlock<DeviceThread, kDim, kPadded>(thread, launch).Run();
}

__global__ void __launch_bounds__(kAttentionThreads)
    AttentionMergeKernel(const __grid_constant__ AttentionLaunch launch) {
  DeviceThread thread;
  AttentionMerge<DeviceThread>(thread, launch).Run();
}

template <int kDim, bool kPadded>
void RunAttention(const AttentionLaunch& launch, int num_blocks, cudaStream_t stream) {
  constexpr uint32_t kBytes = AttentionMemory<kDim>::kBytes;
  cudaFuncSetAttribute(AttentionKernel<kDim, kPadded>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kBytes);
  AttentionKernel<kDim, kPadded><<<num_blocks, kAttentionThreads, kBytes, stream>>>(launch);
}

}  // namespace

void LaunchAttention(const AttentionLaunch& launch, int num_blocks, void* stream) {
  auto* const on = static_cast<cudaStream_t>(stream);
  if (launch.page_energy != nullptr) {
    cudaMemsetAsync(launch.page_energy, 0,
                    sizeof(float) * launch.num_pages * (launch.num_heads / launch.group), on);
  }
  if (launch.num_items == 0) {
    return;
  }
  cudaMemsetAsync(launch.next_item, 0, sizeof(uint32_t), on);
  const auto run = launch.head_dim == 256   ? RunAttention<256, false>
                   : launch.head_dim > 128  ? RunAttention<256, true>
                   : launch.head_dim == 128 ? RunAttention<128, false>
                   : launch.head_dim > 64   ? RunAttention<128, true>
                   : launch.head_dim == 64  ? RunAttention<64, false>
                                            : RunAttention<64, true>;
  run(launch, num_blocks, on);
  AttentionMergeKernel<<<launch.num_tiles, kAttentionThreads,
                         AttentionMerge<DeviceThread>::SharedBytes(launch.head_dim), on>>>(launch);
}

}  // namespace thermocline
