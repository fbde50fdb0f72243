#pragma once

#include "kernels/cuda/launches.h"
#include "kernels/cuda/simt/host_grid.h"

namespace thermocline {

// The launches of launches.h, run at once on the host context in an order of a test's choice.
void LaunchAttentionInOrder(const AttentionLaunch& launch, int num_blocks, GridOrder order);

}  // namespace thermocline
