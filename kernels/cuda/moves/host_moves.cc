#include "kernels/cuda/moves/host_moves.h"

#include "kernels/base/check.h"
#include "kernels/cuda/moves/checksums.cuh"
#include "kernels/cuda/moves/choose_rows.cuh"
#include "kernels/cuda/moves/move_tile.cuh"
#include "kernels/cuda/simt/host_thread.h"

namespace thermocline {

void RunMoves(const MoveBatch& batch, GridOrder order) {
  const KvLayout& layout = batch.kv.layout;
  const auto run = [&](int64_t num_blocks, uint32_t shared_bytes, const auto& kernel) {
    HostGrid(static_cast<int>(num_blocks), kMoveTileRows, shared_bytes, order)
        .Run([&](HostThread& thread) { kernel(thread); });
  };
  const int64_t num_blocks = batch.num_moves * NumMoveBlocks(layout);
  if (layout.page_tokens == kMergedTokens) {
    run(num_blocks, RowChooser<HostThread>::SharedBytes(layout),
        [&](HostThread& thread) { RowChooser<HostThread>(thread, batch).Run(); });
  }
  run(TileMover<HostThread>::NumThreadBlocks(batch), TileMover<HostThread>::SharedBytes(layout),
      [&](HostThread& thread) { TileMover<HostThread>(thread, batch).Run(); });
  run(num_blocks, WarpHash<HostThread>::kSharedBytes,
      [&](HostThread& thread) { HashMovedBlock(thread, batch); });
  run(batch.num_moves, WarpHash<HostThread>::kSharedBytes,
      [&](HostThread& thread) { FinishMove(thread, batch); });
}

void LaunchMoves(const MoveBatch& batch, void* stream) {
  CHECK(stream == nullptr);
  RunMoves(batch, {});
}

}  // namespace thermocline
