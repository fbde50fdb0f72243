#include "engine/baselines/evictor.h"

#include <algorithm>
#include <bit>

#include "engine/baselines/eviction_rules.h"
#include "kernels/base/check.h"

namespace thermocline {
namespace {

int EndOf(const ScheduledSequence& scheduled) {
  return scheduled.sequence->num_computed + scheduled.num_tokens;
}

bool EndsPrompt(const ScheduledSequence& scheduled) {
  const int num_prompt = scheduled.sequence->num_prompt();
  return scheduled.sequence->num_computed < num_prompt && EndOf(scheduled) >= num_prompt;
}

}  // namespace

Evictor::Evictor(const Options& options, const KvLayout& layout)
    : options_(options),
      layout_(layout),
      kept_(layout),
      pool_(options.num_threads),
      mass_(layout, options.num_heads, pool_),
      attention_(layout, pool_) {
  CHECK(options.budget > 0);
}

void Evictor::BeginStep(const StepPlan& plan) {
  observed_.clear();
  int row = 0;
  for (const ScheduledSequence& scheduled : plan.sequences) {
    ClearWrittenPages(scheduled);
    observed_.push_back(ObservedRows(scheduled, row));
    row += scheduled.num_tokens;
  }
}

// A page's first position is written once in its life, by the sequence that allocated it.
void Evictor::ClearWrittenPages(const ScheduledSequence& scheduled) {
  const Sequence& sequence = *scheduled.sequence;
  const int page_tokens = layout_.page_tokens;
  const int first = (sequence.num_computed + page_tokens - 1) / page_tokens;
  for (int i = first; i * page_tokens < EndOf(scheduled); ++i) {
    const PageId page = sequence.pages[static_cast<size_t>(i)];
    kept_.Refill(page);
    if (needs_mass()) {
      mass_.Clear(page);
    }
  }
}

AttentionMass::Rows Evictor::ObservedRows(const ScheduledSequence& scheduled, int first_row) {
  const Sequence& sequence = *scheduled.sequence;
  if (!needs_mass()) {
    return {};
  }
  if (options_.baseline == Baseline::kH2o) {
    return {first_row, first_row + scheduled.num_tokens};
  }
  const int window = sequence.num_prompt() - kSnapKvWindow;
  const int begin = std::max(window, sequence.num_computed);
  const int end = std::min(sequence.num_prompt(), EndOf(scheduled));
  if (begin >= end) {
    return {};
  }
  // The window begins here, or as much of it as was not found in the prefix cache.
  if (sequence.num_computed <= window || sequence.num_computed == sequence.num_cached) {
    for (size_t i = 0; static_cast<int>(i) * layout_.page_tokens < EndOf(scheduled); ++i) {
      mass_.Clear(sequence.pages[i]);
    }
  }
  return {first_row + begin - sequence.num_computed, first_row + end - sequence.num_computed};
}

void Evictor::Attend(const Ops& ops, Tensor qkv, int num_heads, const BatchView& batch,
                     const KvCacheView& kv, const AttentionParams& params, Tensor out,
                     Stream& stream) {
  if (needs_mass()) {
    mass_.Add(params.layer, qkv, batch, kv, kept_, observed_);
  }
  attention_.Run(ops, kept_, qkv, num_heads, batch, kv, params, out, stream);
}

void Evictor::EndStep(const StepPlan& plan) {
  for (const ScheduledSequence& scheduled : plan.sequences) {
    if (options_.baseline != Baseline::kSnapKv) {
      EvictFrom(*scheduled.sequence, EndOf(scheduled));
    } else if (EndsPrompt(scheduled)) {
      EvictFrom(*scheduled.sequence, scheduled.sequence->num_prompt());
    }
  }
}

void Evictor::EvictFrom(const Sequence& sequence, int length) {
  const int num_kv_heads = layout_.num_kv_heads;
  pool_.ParallelFor(layout_.num_layers * num_kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<int>(begin); i < static_cast<int>(end); ++i) {
      EvictFromHead(sequence, length, i / num_kv_heads, i % num_kv_heads);
    }
  });
}

void Evictor::EvictFromHead(const Sequence& sequence, int length, int layer, int kv_head) {
  const int page_tokens = layout_.page_tokens;
  std::vector<int32_t> positions;
  std::vector<float> mass;
  for (int i = 0; i * page_tokens < length; ++i) {
    const PageId page = sequence.pages[static_cast<size_t>(i)];
    for (uint64_t kept = kept_.below(length, i, page, layer, kv_head); kept != 0;
         kept &= kept - 1) {
      const int slot = std::countr_zero(kept);
      positions.push_back(i * page_tokens + slot);
      if (needs_mass()) {
        mass.push_back(mass_.of(page, layer, kv_head)[static_cast<size_t>(slot)]);
      }
    }
  }
  const HeldTokens held{.positions = positions,
                        .mass = mass,
                        .length = length,
                        .num_kept = NumKeptTokens(options_.budget, length)};
  for (const int32_t position : TokensToEvict(options_.baseline, held)) {
    const PageId page = sequence.pages[static_cast<size_t>(position / page_tokens)];
    kept_.Evict(page, layer, kv_head, position % page_tokens);
  }
}

uint64_t Evictor::HeldBytes(const ScheduledSequence& scheduled) const {
  const int length = EndOf(scheduled);
  uint64_t num_held = 0;
  for (int i = 0; i * layout_.page_tokens < length; ++i) {
    const PageId page = scheduled.sequence->pages[static_cast<size_t>(i)];
    for (int layer = 0; layer < layout_.num_layers; ++layer) {
      for (int h = 0; h < layout_.num_kv_heads; ++h) {
        num_held += static_cast<uint64_t>(std::popcount(kept_.below(length, i, page, layer, h)));
      }
    }
  }
  return num_held * 2 * NativeVectorBytes(layout_);
}

}  // namespace thermocline
