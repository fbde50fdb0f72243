#pragma once

#include <algorithm>
#include <cstdint>

#include "scheduler/tier_controller.h"

namespace thermocline {

struct SchedulerConfig {
  int max_num_seqs = 64;             // sequences that may run at once
  int max_num_batched_tokens = 512;  // tokens computed in one step, over all sequences
  // Prompt tokens in a step in which somebody decodes; 0: no such bound.
  int max_num_prefill_tokens_while_decoding = 0;
  int max_model_len = 2048;       // prompt plus output of one sequence
  int max_num_queued_reqs = 256;  // requests waiting for admission
  bool enable_prefix_caching = true;
  uint64_t prefix_hash_key = 0;  // random per process: see PrefixCache
  TierConfig tiers;

  // Whether prompts are held to max_num_prefill_tokens_while_decoding. `decodes`: somebody does.
  bool CapsPrompts(bool decodes) const {
    return decodes && max_num_prefill_tokens_while_decoding > 0;
  }
  // What prompts may take of the `num_left` tokens that decoding sequences leave of a step.
  int PromptBudget(int num_left, bool decodes) const {
    return CapsPrompts(decodes) ? std::min(num_left, max_num_prefill_tokens_while_decoding)
                                : num_left;
  }
};

}  // namespace thermocline
