#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/panel_codes.h"
#include "kernels/cuda/launches.h"

namespace thermocline {

// Neighbouring 32-bit words of one row of a group: kWide panel lanes.
template <int kWide>
struct WordRun {
  uint32_t w[kWide];
};

// Codes become level bytes by byte permutations, eight codes at a time, which stand in the nibbles
// of a selector. Codes of 3 bits leave a nibble's top bit zero, where a permutation would spread
// signs.
template <typename Thread>
struct CodeLevels {
  template <int kWide>
  HD static WordRun<kWide> Load(const Thread& x, const std::byte* at) {
    WordRun<kWide> run;
    if constexpr (kWide == 4) {
      const auto words = x.Load16(at);
      for (int i = 0; i < 4; ++i) {
        run.w[i] = words.w[i];
      }
    } else {
      const auto words = x.Load8(at);
      run.w[0] = words.w[0];
      run.w[1] = words.w[1];
    }
    return run;
  }

  // The four rows of a group of 3 or 4 bits. With 3 bits the last one lies in bits 6 and 7 of the
  // others.
  template <int kBits, int kWide>
  HD static void LoadRows(const Thread& x, const std::byte* at, WordRun<kWide> (&rows)[4]) {
    for (int r = 0; r < kBits; ++r) {
      rows[r] = Load<kWide>(x, at + r * kGroupRowBytes);
    }
    if constexpr (kBits == 3) {
      for (int i = 0; i < kWide; ++i) {
        const uint32_t low =
            ((rows[1].w[i] & 0xc0c0c0c0U) | (rows[0].w[i] >> 2 & 0x3f3f3f3fU)) >> 4;
        rows[3].w[i] = (low & 0x0f0f0f0fU) | (rows[2].w[i] >> 2 & 0xf0f0f0f0U);
      }
    }
  }

  // Eight codes of one word, or of one half of two.
  template <int kBits>
  HD static uint32_t Selector(uint32_t word) {
    return kBits == 4 ? word : (word & 0x07070707U) | (word << 1 & 0x70707070U);
  }
  template <int kBits>
  HD static uint32_t Selector(uint32_t a, uint32_t b, int half) {
    constexpr uint32_t kLow = kBits == 4 ? 0x0f0f0f0fU : 0x07070707U;
    return (a >> kBits * half & kLow) | (b << (4 - kBits * half) & kLow << 4);
  }

  // Levels of the selector's low four nibbles in `low`, of the others in `high`.
  template <int kBits>
  HD static void LevelsOf(const uint32_t (&table)[4], uint32_t selector, uint32_t& low,
                          uint32_t& high) {
    if constexpr (kBits == 4) {
      // The top bits of codes, each in all bits of its byte.
      const uint32_t upper_low = Thread::Permute(selector << 4, selector, 0xd9c8U);
      const uint32_t upper_high = Thread::Permute(selector << 4, selector, 0xfbeaU);
      const uint32_t codes = selector & 0x77777777U;
      low = (Thread::Permute(table[0], table[1], codes) & ~upper_low) |
            (Thread::Permute(table[2], table[3], codes) & upper_low);
      high = (Thread::Permute(table[0], table[1], codes >> 16) & ~upper_high) |
             (Thread::Permute(table[2], table[3], codes >> 16) & upper_high);
    } else {
      low = Thread::Permute(table[0], table[1], selector);
      high = Thread::Permute(table[0], table[1], selector >> 16);
    }
  }
};

}  // namespace thermocline
