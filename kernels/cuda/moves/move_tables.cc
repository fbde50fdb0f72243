#include <cmath>

#include "kernels/base/check.h"
#include "kernels/core/panel_codes.h"
#include "kernels/cuda/moves/page_moves.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/token_clusters.h"

namespace thermocline {

static_assert(kMergedTokens == kClusteredTokens && kMergedRows == kNumClusters);
static_assert(kMostMergedTokens == kClusteredTokens - kNumClusters + 1);
static_assert(kNumCodecs == static_cast<int>(Codec::kMergedK3V2) + 1);

MoveTables MakeMoveTables(const KvLayout& layout) {
  // KeyRounding's own terms; larger pages have no scratch on the CPU either.
  CHECK(layout.page_tokens % kPanelLanes == 0 && layout.page_tokens <= kClusteredTokens);
  CHECK(layout.head_dim % 4 == 0);  // rows of query factors are read four at a time
  MoveTables tables{};
  for (int i = 0; i < kNumCodecs; ++i) {
    const auto codec = static_cast<Codec>(i);
    if (IsMerged(codec) && !CanMerge(layout)) {
      continue;
    }
    const BlockLayout block = BlockLayoutOf(codec, layout);
    const int rows = BlockRows(codec, layout);
    const int padded_dim = (layout.head_dim + kGroupInner - 1) / kGroupInner * kGroupInner;
    const bool coded = codec != Codec::kNative;
    tables.parts[i] = {.k_scales = block.k_scales,
                       .v_codes = block.v_codes,
                       .v_scales = block.v_scales,
                       .log_weights = block.log_weights,
                       .bytes = block.bytes,
                       .rows = rows,
                       .k_panel_bytes = coded ? PanelBytes(KeyBits(codec), padded_dim) : 0,
                       .v_panel_bytes = coded ? PanelBytes(ValueBits(codec), rows) : 0};
  }
  for (int bits = 2; bits <= 4; ++bits) {
    tables.books[bits - 2] = CodebookFor(layout.head_dim, bits);
  }
  tables.secret = kXxh3Secret;
  for (int n = 1; n <= kMostMergedTokens; ++n) {
    tables.logs[n] = std::log(static_cast<float>(n));
  }
  return tables;
}

size_t MoveWorkspaceBytes(const KvLayout& layout, int num_moves) {
  const auto num_blocks = static_cast<size_t>(num_moves * NumMoveBlocks(layout));
  return num_blocks *
         (2 * sizeof(uint64_t) + sizeof(RowChoice) + static_cast<size_t>(NumTiles(layout)));
}

}  // namespace thermocline
