#pragma once

#include <cstdint>
#include <vector>

namespace thermocline {

// What every model is served with; a page file stores the seed that its pages were written with.
inline constexpr uint64_t kRotationSeed = 20504;

// The signs of a model's random-sign Hadamard rotation (kernels/core/hadamard.h), +1 or -1 each.
// The same seed gives the same signs on every machine: a page file that stores the seed can be read
// anywhere. [head_dim]
std::vector<float> RotationSigns(int head_dim, uint64_t seed);

}  // namespace thermocline
