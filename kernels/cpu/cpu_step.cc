#include "kernels/cpu/cpu_step.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr int kTileRows = 96;  // as many pay for dequantising a page

}  // namespace

void CutIntoTiles(const BatchView& batch, const KvLayout& layout, int num_heads,
                  std::vector<TileSpan>& tiles) {
  CHECK(num_heads % layout.num_kv_heads == 0);
  const int tile_tokens = std::max(1, kTileRows / (num_heads / layout.num_kv_heads));
  tiles.clear();
  for (int s = 0; s < batch.num_sequences; ++s) {
    const int end = batch.sequence_starts[s + 1];
    for (int t = batch.sequence_starts[s]; t < end; t += tile_tokens) {
      for (int h = 0; h < layout.num_kv_heads; ++h) {
        tiles.push_back({s, h, t, std::min(tile_tokens, end - t)});
      }
    }
  }
}

void FindSlots(const BatchView& batch, const KvCacheView& kv, std::vector<TokenSlot>& slots) {
  const int page_tokens = kv.layout.page_tokens;
  slots.clear();
  for (int s = 0; s < batch.num_sequences; ++s) {
    const PageId* pages = batch.page_ids + batch.page_starts[s];
    for (int t = batch.sequence_starts[s]; t < batch.sequence_starts[s + 1]; ++t) {
      const int position = batch.positions[t];
      slots.push_back(
          {.page = kv.page_map[pages[position / page_tokens]], .slot = position % page_tokens});
    }
  }
}

}  // namespace thermocline
