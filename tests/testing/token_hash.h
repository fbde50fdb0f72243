#pragma once

#include <cstdint>

#include "kernels/base/token.h"

namespace thermocline {

// SplitMix64's finaliser: every bit of the input reaches every bit of the output.
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

// What the fake models know of a text: its tokens so far, in order.
inline uint64_t NextState(uint64_t state, TokenId token) {
  return Mix(state + 0x9e3779b97f4a7c15U + static_cast<uint64_t>(token));
}

}  // namespace thermocline
