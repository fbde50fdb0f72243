#include <cuda_runtime.h>

#include "kernels/cuda/moves/checksums.cuh"
#include "kernels/cuda/moves/choose_rows.cuh"
#include "kernels/cuda/moves/move_tile.cuh"
#include "kernels/cuda/moves/page_moves.h"
#include "kernels/cuda/simt/device_thread.cuh"

// Compiled with --fmad=false: a contracted product would give other bits than the CPU's.

namespace thermocline {

__global__ void __launch_bounds__(kMoveTileRows, 16)
    ChooseRowsKernel(const __grid_constant__ MoveBatch of) {
  const DeviceThread thread;
  RowChooser<DeviceThread>(thread, of).Run();
}

__global__ void __launch_bounds__(kMoveTileRows, 16)
    MoveTileKernel(const __grid_constant__ MoveBatch of) {
  const DeviceThread thread;
  TileMover<DeviceThread>(thread, of).Run();
}

__global__ void __launch_bounds__(kMoveTileRows, 16)
    HashMovedBlockKernel(const __grid_constant__ MoveBatch of) {
  HashMovedBlock(DeviceThread(), of);
}

__global__ void __launch_bounds__(kMoveTileRows, 16)
    FinishMoveKernel(const __grid_constant__ MoveBatch of) {
  FinishMove(DeviceThread(), of);
}

namespace {

// A launch that fails leaves its error to the stream's next synchronisation.
void Launch(void (*kernel)(MoveBatch), const MoveBatch& batch, int64_t num_blocks,
            uint32_t shared_bytes, cudaStream_t stream) {
  constexpr uint32_t kDefaultSharedBytes = 48 << 10;
  if (shared_bytes > kDefaultSharedBytes) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
  }
  kernel<<<static_cast<unsigned>(num_blocks), kMoveTileRows, shared_bytes, stream>>>(batch);
}

}  // namespace

void LaunchMoves(const MoveBatch& batch, void* stream) {
  const KvLayout& layout = batch.kv.layout;
  auto* on = static_cast<cudaStream_t>(stream);
  const int64_t num_blocks = batch.num_moves * NumMoveBlocks(layout);
  if (layout.page_tokens == kMergedTokens) {
    Launch(ChooseRowsKernel, batch, num_blocks, RowChooser<DeviceThread>::SharedBytes(layout), on);
  }
  Launch(MoveTileKernel, batch, TileMover<DeviceThread>::NumThreadBlocks(batch),
         TileMover<DeviceThread>::SharedBytes(layout), on);
  Launch(HashMovedBlockKernel, batch, num_blocks, WarpHash<DeviceThread>::kSharedBytes, on);
  Launch(FinishMoveKernel, batch, batch.num_moves, WarpHash<DeviceThread>::kSharedBytes, on);
}

}  // namespace thermocline
