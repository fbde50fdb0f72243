#pragma once

#include <cstdint>
#include <vector>

#include "engine/baselines/attention_mass.h"
#include "engine/baselines/baseline.h"
#include "engine/baselines/kept_attention.h"
#include "engine/baselines/kept_tokens.h"
#include "kernels/base/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/page_format.h"
#include "kernels/tensor.h"
#include "scheduler/step_plan.h"

namespace thermocline {

// What a baseline does to the sequences of each step: StreamingLLM, H2O or SnapKV with true
// attention (eviction_rules.h), in the engine that they are compared with.
//
// Pages stay hot and whole; which tokens each layer and KV head has evicted is noted beside them,
// and attention leaves these out from the next step on. Evicted tokens never return. Their memory
// is not given back, so what such a cache would take is counted: HeldBytes.
// StreamingLLM and H2O evict at the end of every step in which a sequence is over its budget, a
// part of its length so far; a prompt that is computed in one step is thus evicted from at its end
// (kvpress's case), one in chunks at the end of each. SnapKV evicts once, when the prompt ends;
// what is generated stays. What a page has lost, and for H2O the attention that its tokens have
// got, last until its first position is written anew. So who finds the page in the prefix cache
// reads only what was kept, and sequences that share a page share its evictions, whoever's budget
// or window they came from. Used by the engine thread only.
class Evictor {
 public:
  struct Options {
    Baseline baseline = Baseline::kStreaming;
    double budget = 1;  // see NumKeptTokens
    int num_heads = 0;
    int num_threads = 1;
  };
  Evictor(const Options& options, const KvLayout& layout);

  // Called before and after the forward pass of a plan whose sequences have pages for their tokens.
  void BeginStep(const StepPlan& plan);
  void EndStep(const StepPlan& plan);
  // Attention of the pass in one layer, over what is kept. Arguments as of Ops::PagedAttention,
  // which it calls on `ops`; all memory is the host's.
  void Attend(const Ops& ops, Tensor qkv, int num_heads, const BatchView& batch,
              const KvCacheView& kv, const AttentionParams& params, Tensor out, Stream& stream);

  const KeptTokens& kept() const { return kept_; }
  // What the kept tokens of a sequence take, all layers and heads, after a step.
  uint64_t HeldBytes(const ScheduledSequence& scheduled) const;

 private:
  bool needs_mass() const { return options_.baseline != Baseline::kStreaming; }
  void ClearWrittenPages(const ScheduledSequence& scheduled);
  // The rows of the batch, `first_row` the sequence's first, whose attention counts.
  AttentionMass::Rows ObservedRows(const ScheduledSequence& scheduled, int first_row);
  void EvictFrom(const Sequence& sequence, int length);
  void EvictFromHead(const Sequence& sequence, int length, int layer, int kv_head);

  Options options_;
  KvLayout layout_;
  KeptTokens kept_;
  ThreadPool pool_;
  AttentionMass mass_;
  KeptAttention attention_;
  std::vector<AttentionMass::Rows> observed_;  // this step's, one per sequence
};

}  // namespace thermocline
