#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/panel_codes.h"

namespace thermocline {

// Writes the codes of one lane of a panel, four neighbouring inner codes at a time, each a byte of
// a word. From the last to the first, so that the row of three bits that has no place of its own is
// known before those that carry it (kernels/core/panel_codes.h).
template <int kBits>
class RowPacker {
 public:
  static constexpr int kFours = GroupInner(kBits) / 4;  // of a group

  // `lane`: where the lane's first word is in the panel.
  HD explicit RowPacker(std::byte* lane) : lane_(lane) {}

  HD void Put(int four, uint32_t codes) {
    const int group = four / kFours;
    const int in_group = four % kFours;
    if constexpr (kBits == 8) {
      Store(group, in_group, codes);
    } else if constexpr (kBits == 2) {
      word_ = (in_group == kFours - 1 ? 0U : word_) | codes << 2 * in_group;
      if (in_group == 0) {
        Store(group, 0, word_);
      }
    } else if (in_group % 2 == 1) {
      word_ = codes << kBits;
    } else if (kBits == 3 && in_group == kFours - 2) {
      spare_ = word_ | codes;
    } else {
      const int row = in_group / 2;
      word_ |= codes;
      Store(group, row, kBits == 3 ? word_ | (spare_ >> 2 * row & 0x03030303U) << 6 : word_);
    }
  }

 private:
  HD void Store(int group, int row, uint32_t word) const {
    *reinterpret_cast<uint32_t*>(lane_ + group * GroupBytes(kBits) + row * kGroupRowBytes) = word;
  }

  std::byte* lane_;
  uint32_t word_ = 0;
  uint32_t spare_ = 0;  // "row 3" of three bits
};

}  // namespace thermocline
