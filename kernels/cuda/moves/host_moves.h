#pragma once

#include "kernels/cuda/moves/page_moves.h"
#include "kernels/cuda/simt/host_grid.h"

namespace thermocline {

// What LaunchMoves does on a GPU, on the host context.
void RunMoves(const MoveBatch& batch, GridOrder order);

}  // namespace thermocline
