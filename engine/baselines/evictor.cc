#include "engine/baselines/evictor.h"

#include <algorithm>
#include <bit>

#include "engine/baselines/eviction_rules.h"
#include "kernels/base/check.h"

namespace thermocline {
namespace {

// The bits of page `index` of a sequence that stand for positions below `length`.
uint64_t WrittenBits(int length, size_t index, int page_tokens) {
  const int count = std::clamp(length - static_cast<int>(index) * page_tokens, 0, page_tokens);
  return count == 0 ? 0 : kKeepAll >> (64 - count);
}

int EndOf(const ScheduledSequence& scheduled) {
  return scheduled.sequence->num_computed + scheduled.num_tokens;
}

bool EndsPrompt(const ScheduledSequence& scheduled) {
  const int num_prompt = scheduled.sequence->num_prompt();
  return scheduled.sequence->num_computed < num_prompt && EndOf(scheduled) >= num_prompt;
}

}  // namespace

Evictor::Evictor(const Options& options, const KvLayout& layout, size_t num_pages)
    : options_(options),
      layout_(layout),
      num_blocks_(static_cast<size_t>(layout.num_layers * layout.num_kv_heads)),
      masks_(num_pages * num_blocks_, kKeepAll),
      pool_(options.num_threads),
      mass_(layout, options.num_heads, num_pages, pool_) {
  CHECK(Evicts(options.policy) && options.budget > 0 && layout.page_tokens <= 64);
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
    std::fill_n(MasksOf(page), num_blocks_, kKeepAll);
    if (options_.policy != KvPolicy::kStreaming) {
      mass_.Clear(page);
    }
  }
}

AttentionMass::Rows Evictor::ObservedRows(const ScheduledSequence& scheduled, int first_row) {
  const Sequence& sequence = *scheduled.sequence;
  if (options_.policy == KvPolicy::kStreaming) {
    return {};
  }
  if (options_.policy == KvPolicy::kH2o) {
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

void Evictor::Observe(int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv) {
  if (options_.policy != KvPolicy::kStreaming) {
    mass_.Add(layer, qkv, batch, kv, observed_);
  }
}

void Evictor::EndStep(const StepPlan& plan) {
  for (const ScheduledSequence& scheduled : plan.sequences) {
    if (options_.policy != KvPolicy::kSnapKv) {
      EvictFrom(*scheduled.sequence, EndOf(scheduled));
    } else if (EndsPrompt(scheduled)) {
      EvictFrom(*scheduled.sequence, scheduled.sequence->num_prompt());
    }
  }
}

void Evictor::EvictFrom(const Sequence& sequence, int length) {
  pool_.ParallelFor(static_cast<int64_t>(num_blocks_), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      EvictFromBlock(sequence, length, static_cast<size_t>(block));
    }
  });
}

void Evictor::EvictFromBlock(const Sequence& sequence, int length, size_t block) {
  const int page_tokens = layout_.page_tokens;
  const auto layer = static_cast<int>(block) / layout_.num_kv_heads;
  const auto kv_head = static_cast<int>(block) % layout_.num_kv_heads;
  std::vector<int32_t> positions;
  std::vector<float> mass;
  for (size_t i = 0; static_cast<int>(i) * page_tokens < length; ++i) {
    const PageId page = sequence.pages[i];
    uint64_t kept = MasksOf(page)[block] & WrittenBits(length, i, page_tokens);
    for (; kept != 0; kept &= kept - 1) {
      const int slot = std::countr_zero(kept);
      positions.push_back(static_cast<int>(i) * page_tokens + slot);
      if (options_.policy != KvPolicy::kStreaming) {
        mass.push_back(mass_.of(page, layer, kv_head)[static_cast<size_t>(slot)]);
      }
    }
  }
  const HeldTokens held{.positions = positions,
                        .mass = mass,
                        .length = length,
                        .num_kept = NumKeptTokens(options_.budget, length)};
  for (const int32_t position : TokensToEvict(options_.policy, held)) {
    const PageId page = sequence.pages[static_cast<size_t>(position / page_tokens)];
    MasksOf(page)[block] &= ~(uint64_t{1} << (position % page_tokens));
  }
}

uint64_t Evictor::HeldBytes(const ScheduledSequence& scheduled) const {
  const int length = EndOf(scheduled);
  uint64_t num_held = 0;
  for (size_t i = 0; static_cast<int>(i) * layout_.page_tokens < length; ++i) {
    const uint64_t* masks = MasksOf(scheduled.sequence->pages[i]);
    for (size_t block = 0; block < num_blocks_; ++block) {
      num_held += static_cast<uint64_t>(
          std::popcount(masks[block] & WrittenBits(length, i, layout_.page_tokens)));
    }
  }
  return num_held * 2 * NativeVectorBytes(layout_);
}

}  // namespace thermocline
