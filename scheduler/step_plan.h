#pragma once

#include <cstdint>
#include <vector>

#include "kernels/page_format.h"
#include "scheduler/sequence.h"

// All that crosses from scheduler to engine, and back.

namespace thermocline {

// Compute tokens [num_computed, num_computed + num_tokens) of `sequence`. When that reaches the end
// of its tokens, the last row's logits give the next token.
struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int num_tokens = 0;

  bool samples() const { return num_tokens == sequence->num_wanted(); }
};

struct StepPlan {
  uint64_t step = 0;
  std::vector<ScheduledSequence> sequences;
  std::vector<PageMove> moves;
};

struct StepResult {
  std::vector<std::vector<TokenId>>
      accepted;  // one per scheduled sequence; empty when none sampled
  std::vector<PageMove> finished_moves;
};

}  // namespace thermocline
