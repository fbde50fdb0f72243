#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_step.h"
#include "kernels/cpu/isa/isa_table.h"
#include "kernels/ops.h"

namespace thermocline {

// The arguments of one PagedAttention.
struct AttentionCall {
  const IsaTable& isa;
  Tensor qkv;
  int num_heads;
  const BatchView& batch;
  const KvCacheView& kv;
  const AttentionParams& params;
  Tensor out;

  int group() const { return num_heads / kv.layout.num_kv_heads; }
  int32_t padded_dim() const { return (kv.layout.head_dim + 31) / 32 * 32; }
  bool observes() const { return params.page_energy != nullptr; }
};

// A page of a tile's sequence, or none.
struct TilePage {
  const TileSpan* tile = nullptr;
  int index = 0;
};

// Softmax states (kernels/core/softmax_state.h) of a tile's rows after some of its pages.
struct SoftmaxStates {
  std::vector<float> max;
  std::vector<float> sum;
  std::vector<float> o;           // [num_rows, padded_dim]
  std::vector<float> log_energy;  // [pages, num_rows]: before twice the log sum is subtracted

  void Reset(size_t num_rows, size_t dim);
};

// Scratch memory for attending to one page. It belongs to one thread and is kept between calls,
// like the tile's rows, so that a step allocates nothing once the sizes have been seen.
struct PageScratch {
  std::vector<int32_t> num_valid;  // [num_rows]: see QueryRows
  std::vector<float> page_max;     // [num_rows]
  std::vector<float> page_sum;
  std::vector<float> buffers;  // PageBuffers, and what aligns them
};

// The rows of one tile. Once they are loaded, several threads may attend to pages with them.
class QueryTile {
 public:
  // Loads a tile: scales its queries, and computes what they add to the scores of coded pages.
  void Load(const AttentionCall& call, const TileSpan& tile);

  // Attends to one page of any tier, with the tile that was loaded. `next` is the page that this
  // thread will probably read then. Notes the page's energy if `notes_energy`.
  void Attend(const AttentionCall& call, int page_index, const TilePage& next, bool notes_energy,
              PageScratch& scratch, SoftmaxStates& state) const;

 private:
  void LoadBiasProducts(const AttentionCall& call);
  void CountVisible(const AttentionCall& call, Codec codec, int page_index,
                    std::vector<int32_t>& num_valid) const;
  // `next`: the block that is read after this one, if its codec is the same, or null.
  void AttendNative(const AttentionCall& call, PageId page, int page_index, const std::byte* next,
                    PageScratch& scratch, SoftmaxStates& state) const;
  void AttendCoded(const AttentionCall& call, Codec codec, PageId page, int page_index,
                   const std::byte* next, PageScratch& scratch, SoftmaxStates& state) const;
  QueryRows Rows(const AttentionCall& call, PageScratch& scratch, SoftmaxStates& state) const;
  BiasScores BiasOfPage(const AttentionCall& call, int page_index) const;

  TileSpan tile_{};
  size_t num_rows_ = 0;
  std::vector<float> q_;              // [num_rows, padded_dim], scaled
  std::vector<uint32_t> q_words_;     // [num_rows, padded_dim / 2]: see QueryRows
  std::vector<float> q_steps_;        // [num_rows]
  std::vector<float> bias_;           // [num_rows], of coded pages
  std::vector<float> bias_products_;  // [num_rows][2][head_dim / 2]: see BiasScores; may be empty
  std::vector<float> key_query_;      // [head_dim]
};

}  // namespace thermocline
