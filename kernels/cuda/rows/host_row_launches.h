#pragma once

#include "kernels/cuda/rows/row_launches.h"
#include "kernels/cuda/simt/host_grid.h"

namespace thermocline {

// What the functions of row_launches.h do on a GPU, on the host context.
void RunRows(const EmbedLaunch& launch, GridOrder order);
void RunRows(const GatherLaunch& launch, GridOrder order);
void RunRows(const NormLaunch& launch, GridOrder order);
void RunRows(const BiasLaunch& launch, GridOrder order);
void RunRows(const GateLaunch& launch, GridOrder order);
void RunRows(const QkvLaunch& launch, GridOrder order);
void RunRows(const FoldLaunch& launch, GridOrder order);

}  // namespace thermocline
