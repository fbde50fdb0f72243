#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/codebook.h"
#include "kernels/core/xxh3.h"
#include "kernels/page_format.h"

// Moves of pages between places and codecs, with the bits of TranscodePage
// (kernels/quant/page_codec.h): equal codes, scales, log weights, outcomes and checksums. A warp
// does 32 rows of K or of V of one layer and KV head; rows of a merged block are chosen before by a
// warp for the whole block. Sums have the order of the plain loops in kernels/core/quantize.h, and
// products and sums are rounded apart: these kernels are compiled with --fmad=false.

namespace thermocline {

inline constexpr int kNumCodecs = 6;
inline constexpr int kMoveTileRows = 32;
inline constexpr int kMostMergedTokens = 17;  // in one row of a merged block: 64 less the other 47
inline constexpr int kMergedRows = 48;
inline constexpr int kMergedTokens = 64;

// Where the parts of a codec's block are, as BlockLayoutOf says, and the sizes of its panels.
struct BlockParts {
  uint32_t k_scales;
  uint32_t v_codes;
  uint32_t v_scales;
  uint32_t log_weights;
  uint32_t bytes;
  int32_t rows;
  int32_t k_panel_bytes;
  int32_t v_panel_bytes;
};

// What the shape of pages decides. Filled on the host, given to kernels by value.
struct MoveTables {
  BlockParts parts[kNumCodecs];
  Codebook books[3];  // of 2, 3 and 4 bits
  Xxh3Secret secret;
  float logs[kMostMergedTokens + 1];  // natural ones; that of 0 means nothing
};
// Heads have a multiple of four dimensions, pages a multiple of 16 tokens.
MoveTables MakeMoveTables(const KvLayout& layout);

// A merged block's rows, as TokenClusters has them.
struct RowChoice {
  uint8_t row_of[kMergedTokens];
  uint8_t sizes[kMergedRows];
};

// Moves that are done at once, which share no page. Pointers are to memory that the kernels reach:
// of a view's lists on the host, formats and key_bias.layers have been copied there; moves read no
// page map.
struct MoveBatch {
  KvCacheView kv;
  MoveTables tables;
  const PageMove* moves;  // [num_moves]
  int32_t num_moves;
  std::byte* workspace;  // MoveWorkspaceBytes, aligned to 16; nothing is kept in it
  MoveResult* results;   // [num_moves]
};

// [num_moves, num_layers, num_kv_heads] each, one behind the other.
struct MoveWorkspace {
  uint64_t* source_hashes;
  uint64_t* target_hashes;
  RowChoice* choices;
  uint8_t* not_finite;  // one for each tile
};
HD constexpr int64_t NumMoveBlocks(const KvLayout& layout) {
  return int64_t{layout.num_layers} * layout.num_kv_heads;
}
HD constexpr int NumTiles(const KvLayout& layout) {  // of a block: of its K, then of its V
  return 2 * ((layout.page_tokens + kMoveTileRows - 1) / kMoveTileRows);
}
HD inline MoveWorkspace MoveWorkspaceOf(const MoveBatch& batch) {
  const int64_t num_blocks = batch.num_moves * NumMoveBlocks(batch.kv.layout);
  auto* hashes = reinterpret_cast<uint64_t*>(batch.workspace);
  auto* choices = reinterpret_cast<RowChoice*>(hashes + 2 * num_blocks);
  return {hashes, hashes + num_blocks, choices, reinterpret_cast<uint8_t*>(choices + num_blocks)};
}
size_t MoveWorkspaceBytes(const KvLayout& layout, int num_moves);

// Enqueues a batch. `stream`: the device's; null on the host, where it is done at the return.
void LaunchMoves(const MoveBatch& batch, void* stream);

}  // namespace thermocline
