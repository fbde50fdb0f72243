#pragma once

#include "kernels/core/codebook.h"
#include "kernels/cuda/launches.h"

namespace thermocline {

// A codebook's levels as bytes with a sign, in the step of which they are most nearly whole
// numbers: coordinates are 0.4 % off at most (root mean square), with 127 steps to the largest
// level up to twice as much.
LevelBytes LevelBytesOf(const Codebook& book);

}  // namespace thermocline
