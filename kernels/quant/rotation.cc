#include "kernels/quant/rotation.h"

#include "kernels/base/check.h"

namespace thermocline {
namespace {

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
uint64_t NextBits(uint64_t& state) {
  state += 0x9e3779b97f4a7c15U;
  uint64_t bits = state;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9U;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebU;
  return bits ^ bits >> 31;
}

}  // namespace

std::vector<float> RotationSigns(int head_dim, uint64_t seed) {
  CHECK(head_dim > 0);
  std::vector<float> signs(static_cast<size_t>(head_dim));
  for (float& sign : signs) {
    sign = NextBits(seed) >> 63 != 0 ? -1.0F : 1.0F;
  }
  return signs;
}

}  // namespace thermocline
