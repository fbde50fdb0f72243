#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "kernels/page_format.h"

namespace thermocline {

// Query tokens of one sequence and KV head. Its rows are [token][head of the group].
struct TileSpan {
  int sequence;
  int kv_head;
  int first_token;  // in the batch
  int num_tokens;
};

// Where a token's K and V go.
struct TokenSlot {
  PageEntry page;
  int32_t slot = 0;  // in the page
};

// Those of a sequence follow each other, the KV heads of the same tokens beside each other.
void CutIntoTiles(const BatchView& batch, const KvLayout& layout, int num_heads,
                  std::vector<TileSpan>& tiles);
// [num_tokens]
void FindSlots(const BatchView& batch, const KvCacheView& kv, std::vector<TokenSlot>& slots);

// A step's lists as the CPU's kernels want them, equal for all layers. Keeps its memory from step
// to step.
struct CpuStep final : StepData {
  int num_heads = 0;
  std::vector<TileSpan> tiles;
  std::vector<TokenSlot> slots;
};

}  // namespace thermocline
