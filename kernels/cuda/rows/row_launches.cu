#include "kernels/cuda/rows/row_launches.h"

#include <cuda_runtime.h>

#include "kernels/cuda/rows/finish_qkv.cuh"
#include "kernels/cuda/rows/fold_page.cuh"
#include "kernels/cuda/rows/norm_row.cuh"
#include "kernels/cuda/rows/row_parts.cuh"
#include "kernels/cuda/simt/device_thread.cuh"

// Compiled with --fmad=false: a contracted product would give other bits than the CPU's.

namespace thermocline {

__global__ void __launch_bounds__(kRowThreads)
    EmbedKernel(const __grid_constant__ EmbedLaunch launch) {
  EmbedPart(DeviceThread(), launch);
}

__global__ void __launch_bounds__(kRowThreads)
    GatherKernel(const __grid_constant__ GatherLaunch launch) {
  GatherPart(DeviceThread(), launch);
}

__global__ void __launch_bounds__(kRowThreads)
    NormKernel(const __grid_constant__ NormLaunch launch) {
  NormRow(DeviceThread(), launch);
}

__global__ void __launch_bounds__(kRowThreads)
    BiasKernel(const __grid_constant__ BiasLaunch launch) {
  AddBiasPart(DeviceThread(), launch);
}

__global__ void __launch_bounds__(kRowThreads)
    GateKernel(const __grid_constant__ GateLaunch launch) {
  GatePart(DeviceThread(), launch);
}

__global__ void __launch_bounds__(32 * QkvFinisher<DeviceThread>::kWarps)
    QkvKernel(const __grid_constant__ QkvLaunch launch) {
  const DeviceThread thread;
  QkvFinisher<DeviceThread>(thread, launch).Run();
}

__global__ void __launch_bounds__(kFoldThreads)
    FoldKernel(const __grid_constant__ FoldLaunch launch) {
  FoldPage(DeviceThread(), launch);
}

namespace {

// A grid of no blocks would be an error. One that fails leaves it to the stream's next
// synchronisation.
template <typename Of>
void Run(void (*kernel)(Of), const Of& launch, int64_t num_blocks, int num_threads,
         uint32_t shared_bytes, void* stream) {
  if (num_blocks > 0) {
    kernel<<<static_cast<unsigned>(num_blocks), num_threads, shared_bytes,
             static_cast<cudaStream_t>(stream)>>>(launch);
  }
}

}  // namespace

void LaunchEmbed(const EmbedLaunch& launch, void* stream) {
  Run(EmbedKernel, launch, NumPartBlocks(launch.num_rows, launch.dim), kRowThreads, 0, stream);
}

void LaunchGather(const GatherLaunch& launch, void* stream) {
  Run(GatherKernel, launch, NumPartBlocks(launch.num_rows, launch.dim), kRowThreads, 0, stream);
}

void LaunchNorm(const NormLaunch& launch, void* stream) {
  Run(NormKernel, launch, launch.num_rows, kRowThreads, kNormSharedBytes, stream);
}

void LaunchBias(const BiasLaunch& launch, void* stream) {
  Run(BiasKernel, launch, NumPartBlocks(launch.num_rows, launch.dim), kRowThreads, 0, stream);
}

void LaunchGate(const GateLaunch& launch, void* stream) {
  Run(GateKernel, launch, NumPartBlocks(launch.num_rows, launch.dim), kRowThreads, 0, stream);
}

void LaunchQkv(const QkvLaunch& launch, void* stream) {
  using Finisher = QkvFinisher<DeviceThread>;
  Run(QkvKernel, launch, Finisher::NumBlocks(launch), 32 * Finisher::kWarps,
      Finisher::SharedBytes(launch), stream);
}

void LaunchFold(const FoldLaunch& launch, void* stream) {
  Run(FoldKernel, launch, NumFoldBlocks(launch.num_pages), kFoldThreads, 0, stream);
}

}  // namespace thermocline
