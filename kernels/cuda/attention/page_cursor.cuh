#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/shape.h"

namespace thermocline {

// What a tile's queries see.
struct TileSight {
  int first_row_position;  // of its first query
  int last_row_position;
  int first_seen;  // position; all before lie behind the window
};

// A warp's way through its pages, a chunk at a time: 16 hot tokens, 32 warm ones, or a whole block.
// Chunks that no query of the tile sees are left out.
struct PageCursor {
  const AttentionLaunch& of;
  const AttentionTile& tile;
  const TileSight& sight;
  int page;  // of the tile
  int end;
  // The page that the cursor is at:
  const std::byte* block = nullptr;
  Codec codec = Codec::kNative;
  int first_position = 0;
  int chunk = 0;
  int end_chunk = 0;

  HD PageCursor(const AttentionLaunch& launch, const AttentionTile& of_tile,
                const TileSight& of_sight, int first_page, int end_page)
      : of(launch), tile(of_tile), sight(of_sight), page(first_page), end(end_page) {
    Enter();
  }

  HD bool done() const { return page >= end; }
  HD bool is_last_of_page() const { return chunk + 1 == end_chunk; }
  HD int chunk_tokens() const {
    return codec == Codec::kNative ? 16 : codec == Codec::kInt8 ? 32 : 64;
  }
  HD int chunk_position() const { return first_position + chunk * chunk_tokens(); }

  HD void Next() {
    if (++chunk == end_chunk) {
      ++page;
      Enter();
    }
  }

 private:
  HD void Enter() {
    if (done()) {
      return;
    }
    const PageEntry entry = of.pages[tile.first_page + page];
    const LayerFormat& format = of.formats[static_cast<int>(entry.tier())];
    codec = format.codec;
    block = of.arena + entry.offset() + format.layer_offset +
            static_cast<uint64_t>(tile.kv_head) * format.head_stride;
    first_position = tile.first_position + 64 * page;
    const int tokens = chunk_tokens();
    chunk = sight.first_seen > first_position ? (sight.first_seen - first_position) / tokens : 0;
    const int seen = sight.last_row_position - first_position + 1;
    end_chunk = (seen < 64 ? seen + tokens - 1 : 63 + tokens) / tokens;
  }
};

}  // namespace thermocline
