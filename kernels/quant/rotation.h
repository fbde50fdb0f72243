#pragma once

#include <cstdint>
#include <vector>

namespace thermocline {

// The seed that every model is served with. It is part of what stored pages are bound to.
inline constexpr uint64_t kRotationSeed = 20504;

// The signs of a model's random-sign Hadamard rotation (kernels/core/hadamard.h), +1 or -1 each.
// The same seed gives the same signs on every machine, so that stored pages can be read anywhere.
// [head_dim]
std::vector<float> RotationSigns(int head_dim, uint64_t seed);

}  // namespace thermocline
