#pragma once

#include <cstdint>

#include "kernels/page_format.h"

// What a launch of each kernel gets, and the functions that enqueue it. They are defined twice: in
// launches.cu for a GPU, in host_launches.cc for the host context (simt/host_grid.h). All pointers
// are memory of the device.

namespace thermocline {

inline constexpr int kTileRows = 8;   // query rows that one pass over pages serves
inline constexpr int kItemWarps = 4;  // that share an item

// A codebook's levels as bytes, code 0 in the lowest one, in steps of `step`; and what these are
// short by, in steps 128 times as small (attention/level_bytes.h).
struct LevelBytes {
  uint32_t words[4] = {};
  uint32_t rest[4] = {};
  float step = 1.0F;
};

// Rows of a tile are query tokens x heads of a KV head's group: row r is head r % group of token
// r / group. A tile is up to kTileRows neighbours.
struct AttentionTile {
  int32_t first_token = 0;     // of the sequence in the batch: its rows count from here
  int32_t first_row = 0;       // of the sequence and KV head
  int32_t num_rows = 0;        // 1 to kTileRows
  int32_t first_observed = 0;  // row of the tile from which on page energies are wanted
  int32_t kv_head = 0;
  int32_t first_page = 0;  // in AttentionLaunch::pages, of its first position in sight
  int32_t num_pages = 0;
  int32_t first_position = 0;  // of that page
  int32_t first_state = 0;     // of its items, one after the other
  int32_t num_items = 0;
  int64_t first_energy = 0;  // in log_energy, kTileRows a page
};

// Some pages of a tile: what a block does at a time. How a tile is cut depends on its own sequence
// alone.
struct AttentionItem {
  int32_t tile = 0;
  int32_t state = 0;
  int32_t first_page = 0;               // of the tile
  int32_t warp_begins[kItemWarps + 1];  // of the item's pages
};

// A K bias (KeyBiasView) of one layer.
struct AttentionBias {
  const uint32_t* angles = nullptr;  // BiasAngles of attention/plan.h; null: the layer has none
  int32_t num_pairs = 0;
  const float* biases = nullptr;       // [num_kv_heads][2][num_pairs]
  const int32_t* elements = nullptr;   // [2][num_pairs]
  const float* page_angles = nullptr;  // [pages][2][num_pairs]
  const float* signs = nullptr;        // [head_dim]
};

// Decode attention of one layer over pages of any tiers, and the merge of its items.
struct AttentionLaunch {
  int32_t head_dim = 0;  // a multiple of 8, at most 256
  int32_t num_heads = 0;
  int32_t group = 0;         // query heads of a KV head
  const float* q = nullptr;  // [num_tokens, row_width], in the basis of pages
  int64_t row_width = 0;
  float scale = 0;
  const int32_t* positions = nullptr;  // [num_tokens]
  const std::byte* arena = nullptr;
  const PageEntry* pages = nullptr;  // of all sequences, one after the other
  LayerFormat formats[kNumTiers];    // of the layer
  const float* mean_keys = nullptr;  // [num_kv_heads, head_dim], or null
  LevelBytes levels[3];              // of 2, 3 and 4 bits
  AttentionBias bias;

  int32_t window = 0;            // positions that a query sees, its own among them; 0: all
  float score_cap = 0;           // scores become cap tanh(score / cap); 0: none
  const float* sinks = nullptr;  // [num_heads]: a score that every query has beside; or null

  const AttentionItem* items = nullptr;
  int32_t num_items = 0;
  const AttentionTile* tiles = nullptr;
  int32_t num_tiles = 0;
  uint32_t* next_item = nullptr;  // a word of scratch memory
  float* states = nullptr;        // [num_states, kTileRows, head_dim + 2]: out, maximum, sum

  float* out = nullptr;          // [num_tokens, num_heads, head_dim]
  const float* signs = nullptr;  // [head_dim]: out is turned back from the basis of pages; or null
  float* log_sums = nullptr;     // [num_tokens, num_heads]: log2 of the sum of weights; or null
  float* log_energy = nullptr;   // [energies of all tiles], scratch; or null
  float* page_energy = nullptr;  // [pages, num_kv_heads]; null together with log_energy
  int32_t num_pages = 0;         // of all sequences
};

// `num_blocks` of kItemWarps warps claim the items one by one; then a block merges each tile.
// `stream`: a cudaStream_t, nothing on the host.
void LaunchAttention(const AttentionLaunch& launch, int num_blocks, void* stream);

}  // namespace thermocline
