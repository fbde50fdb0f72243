#pragma once

#include <cstdint>
#include <vector>

#include "engine/baselines/attention_mass.h"
#include "kernels/base/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/page_format.h"
#include "kernels/tensor.h"
#include "scheduler/step_plan.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

// The eviction baselines that tiers are compared with: StreamingLLM, H2O and SnapKV with true
// attention (eviction_rules.h), in the same engine. Not part of the product path: without one of
// these policies nothing of it exists.
//
// Pages stay hot and whole; what a layer and KV head has evicted is a bit less in the page's keep
// mask, which attention obeys from the next step on. Evicted tokens never return. Their memory is
// not given back, so what such a cache would take is counted: HeldBytes.
// StreamingLLM and H2O evict at the end of every step in which a sequence is over its budget, a
// part of its length so far; a prompt that is computed in one step is thus evicted from at its end
// (kvpress's case), one in chunks at the end of each. SnapKV evicts once, when the prompt ends;
// what is generated stays. A page's mask, and for H2O the attention that its tokens have got, last
// until its first position is written anew. So who finds the page in the prefix cache reads only
// what was kept, and sequences that share a page share its evictions, whoever's budget or window
// they came from. Used by the engine thread only.
class Evictor {
 public:
  struct Options {
    KvPolicy policy = KvPolicy::kStreaming;  // one for which Evicts is true
    double budget = 1;                       // see NumKeptTokens
    int num_heads = 0;
    int num_threads = 1;
  };
  // Page ids are below `num_pages`.
  Evictor(const Options& options, const KvLayout& layout, size_t num_pages);

  // Called before and after the forward pass of a plan whose sequences have pages for their tokens.
  void BeginStep(const StepPlan& plan);
  void EndStep(const StepPlan& plan);
  // Called in each layer of the pass, when its K is in the cache and before attention. `qkv` is
  // that of Ops::PagedAttention.
  void Observe(int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv);

  // KvCacheView::keep_masks. The pointer is the same for the evictor's life.
  const uint64_t* keep_masks() const { return masks_.data(); }
  // What the kept tokens of a sequence take, all layers and heads, after a step.
  uint64_t HeldBytes(const ScheduledSequence& scheduled) const;

 private:
  uint64_t* MasksOf(PageId page) { return masks_.data() + page * num_blocks_; }
  const uint64_t* MasksOf(PageId page) const { return masks_.data() + page * num_blocks_; }
  void ClearWrittenPages(const ScheduledSequence& scheduled);
  // The rows of the batch, `first_row` the sequence's first, whose attention counts.
  AttentionMass::Rows ObservedRows(const ScheduledSequence& scheduled, int first_row);
  void EvictFrom(const Sequence& sequence, int length);
  void EvictFromBlock(const Sequence& sequence, int length, size_t block);

  Options options_;
  KvLayout layout_;
  size_t num_blocks_;            // layers x KV heads
  std::vector<uint64_t> masks_;  // [num_pages, num_layers, num_kv_heads]
  ThreadPool pool_;
  AttentionMass mass_;
  std::vector<AttentionMass::Rows> observed_;  // this step's, one per sequence
};

}  // namespace thermocline
