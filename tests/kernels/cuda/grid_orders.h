#pragma once

#include "kernels/cuda/simt/host_grid.h"

namespace thermocline {

// The orders of threads and blocks in which a kernel has to give the same bits.
inline constexpr GridOrder kGridOrders[] = {{GridOrder::Kind::kForward},
                                            {GridOrder::Kind::kReverse},
                                            {GridOrder::Kind::kRandom, 1},
                                            {GridOrder::Kind::kRandom, 2}};

}  // namespace thermocline
