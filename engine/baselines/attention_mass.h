#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/baselines/kept_tokens.h"
#include "kernels/base/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/page_format.h"
#include "kernels/tensor.h"

namespace thermocline {

// How much attention each token of a page has got: true softmax weights, summed over queries and
// over the heads of a group. Computes them a second time, beside the device's attention, in plain
// loops over host memory; all pages that it reads are hot. Used by one thread at a time.
class AttentionMass {
 public:
  // Rows of a batch, all of one sequence.
  struct Rows {
    int begin = 0;
    int end = 0;
  };

  // `pool` outlives it.
  AttentionMass(const KvLayout& layout, int num_heads, ThreadPool& pool);

  // Sets a page's sums to zero. Must be called at least once before the page is read.
  void Clear(PageId page);
  // Adds, in one layer, the weights of the queries in `rows`, which has one entry per sequence,
  // over the kept positions up to their own. `qkv` as in Ops::PagedAttention.
  void Add(int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv,
           const KeptTokens& kept, std::span<const Rows> rows);
  // [page_tokens]
  std::span<const float> of(PageId page, int layer, int kv_head) const;

 private:
  // Some queries of one sequence and KV head, and what each kept position got from them.
  struct Tile {
    int sequence = 0;
    int kv_head = 0;
    int first_row = 0;
    int num_rows = 0;
    std::vector<int32_t> positions;
    std::vector<float> mass;  // one for each position
  };
  struct Scratch;

  void CollectTiles(std::span<const Rows> rows);
  void ScoreTile(int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv,
                 const KeptTokens& kept, Tile& tile, Scratch& scratch) const;
  void WeighTile(const BatchView& batch, Tile& tile, Scratch& scratch) const;
  size_t Offset(int layer, int kv_head) const;

  KvLayout layout_;
  int group_;  // query heads per KV head
  ThreadPool& pool_;
  std::vector<std::vector<float>> pages_;  // of each page that was cleared: see Offset
  std::vector<Tile> tiles_;                // the first num_tiles_ are in use
  size_t num_tiles_ = 0;
};

}  // namespace thermocline
