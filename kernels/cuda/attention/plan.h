#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/launches.h"
#include "kernels/ops.h"

namespace thermocline {

// What attention kernels are told of a step, made on the host: the same for all layers with the
// same window. A sequence's part depends on that sequence alone, and so do the bits of its results.
struct AttentionPlan {
  std::vector<AttentionTile> tiles;
  std::vector<AttentionItem> items;  // dearest first
  std::vector<PageEntry> pages;      // where the batch's pages are now
  int32_t num_states = 0;
  int64_t num_energies = 0;
};

// kUnimplemented with a sentence when the kernels cannot read such pages.
Status CheckAttentionLayout(const KvLayout& layout);

AttentionPlan PlanAttention(const BatchView& batch, int num_heads, const KvCacheView& kv,
                            int window);

// Its token_angles, which lie on the host (KeyBias::view()), as operands of m16n8k16:
// [page_tokens][steps of 8 pairs][4 lanes] of four words: the halves nearest to the angles in two,
// what is missing from them in two.
std::vector<uint32_t> BiasAngles(const KeyBiasView& bias, int page_tokens);

// The parts of a launch that depend on the layer alone. `angles`: BiasAngles on the device. Layers
// with a window or a bias have no merged pages.
void SetLayer(const KvCacheView& kv, int layer, const uint32_t* angles, AttentionLaunch& launch);

}  // namespace thermocline
