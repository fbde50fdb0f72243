#pragma once

#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/page_energies.h"
#include "kernels/cuda/rows/row_launches.h"

namespace thermocline {

inline constexpr int kFoldThreads = 128;
HD constexpr int64_t NumFoldBlocks(int num_pages) {
  return (int64_t{num_pages} + kFoldThreads - 1) / kFoldThreads;
}

// A thread a page, so that sums have the CPU's order.
template <typename Thread>
HD void FoldPage(const Thread& thread, const FoldLaunch& of) {
  const int64_t page = int64_t{thread.block()} * kFoldThreads + thread.thread();
  if (page < of.num_pages) {
    const FoldedEnergy folded =
        FoldEnergyOfPage(of.energies, of.num_layers, of.num_pages, of.num_heads, page);
    of.heat[2 * page] = folded.peak;
    of.heat[2 * page + 1] = folded.mean;
  }
}

}  // namespace thermocline
