#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/baselines/kept_tokens.h"
#include "kernels/base/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/page_format.h"
#include "kernels/tensor.h"

namespace thermocline {

// Attention over the tokens that are kept: the device's own, over a cache that lacks the others. In
// each layer the kept tokens are copied side by side into pages of their own, for every sequence
// and KV head, which have lost different ones; to the device each of these is a sequence with one
// KV head. While a step's sequences have lost nothing in a layer, the cache is read as it lies.
//
// Reads pages on the host, all of them hot. Used by one thread at a time.
class KeptAttention {
 public:
  // `pool` outlives it.
  KeptAttention(const KvLayout& layout, ThreadPool& pool);

  // Arguments as of Ops::PagedAttention, which it calls on `ops`. The batch's own tokens are kept.
  void Run(const Ops& ops, const KeptTokens& kept, Tensor qkv, int num_heads,
           const BatchView& batch, const KvCacheView& kv, const AttentionParams& params, Tensor out,
           Stream& stream);

 private:
  // One KV head of one sequence.
  struct Part {
    int sequence = 0;
    int kv_head = 0;
    int num_before = 0;  // kept tokens before the batch's
    int num_tokens = 0;  // of the batch
    int first_page = 0;  // of the copies
  };
  struct alignas(64) Line {
    std::byte bytes[64];
  };

  // Fills parts_. Whether any of them has lost a token.
  bool CountKept(const KeptTokens& kept, const BatchView& batch, int layer);
  void PlanPages();
  void CopyPart(const KeptTokens& kept, const BatchView& batch, const KvCacheView& kv, int layer,
                const Part& part);
  BatchView PartsAsBatch() const;
  KvCacheView PartsAsCache();

  KvLayout layout_;  // of one layer and one KV head
  int num_kv_heads_;
  uint32_t page_units_;
  LayerFormat formats_[kNumTiers];
  ThreadPool& pool_;
  std::vector<Part> parts_;
  int num_pages_ = 0;
  // The batch that the device sees: parts as sequences.
  std::vector<int32_t> starts_, positions_, page_starts_;
  std::vector<PageId> page_ids_;
  std::vector<PageEntry> page_map_;
  std::vector<Line> arena_;
  std::vector<float> q_;    // [num_tokens * num_kv_heads, group * head_dim]
  std::vector<float> out_;  // the same
};

}  // namespace thermocline
