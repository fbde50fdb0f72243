#pragma once

namespace thermocline {

// The largest head that attention kernels hold: what they keep of a vector on the stack is that
// long. Loaders refuse models with larger ones.
inline constexpr int kMaxHeadDim = 512;

}  // namespace thermocline
