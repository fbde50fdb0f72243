#pragma once

namespace thermocline {

// The largest head size. Attention kernels keep vectors of this length on the stack. Loaders refuse
// models with larger heads.
inline constexpr int kMaxHeadDim = 512;

}  // namespace thermocline
