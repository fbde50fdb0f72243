#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/hd.h"

namespace thermocline {

// ln of the sum of e^score of a softmax state (kernels/core/softmax_state.h).
HD inline float LogSum(float max, float sum) { return max + std::log(sum); }

// An energy of a page (AttentionParams::page_energy) is mass x largest weight of one query: e to
// the power of this less 2 LogSum of all its pages. `page_sum` is relative to `max`, which need not
// be the page's.
HD inline float LogEnergyOfPage(float max, float page_sum, float page_max) {
  return LogSum(max, page_sum) + page_max;
}

struct FoldedEnergy {
  float peak = 0;  // the greatest over layers and heads
  float mean = 0;  // over layers and heads
};

// Folds the energies of page `page`; they are [num_layers, num_pages, num_heads] and are summed in
// the order that they lie in.
HD inline FoldedEnergy FoldEnergyOfPage(const float* energies, int64_t num_layers,
                                        int64_t num_pages, int64_t num_heads, int64_t page) {
  FoldedEnergy folded;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const float* heads = energies + (layer * num_pages + page) * num_heads;
    for (int64_t h = 0; h < num_heads; ++h) {
      folded.peak = folded.peak < heads[h] ? heads[h] : folded.peak;
      folded.mean += heads[h];
    }
  }
  folded.mean /= static_cast<float>(num_layers * num_heads);
  return folded;
}

}  // namespace thermocline
