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
  // Whether page energies are to be collected: StepResult::heat.
  bool sample_heat = false;
};

// A move whose copy has ended, well or not.
struct FinishedMove {
  PageMove move;
  MoveResult result;
};

// How strongly the last queries of a step attended to one page: mass x largest weight, at most 1.
struct PageHeat {
  float peak = 0;  // the largest over sampled layers and heads
  float mean = 0;  // over sampled layers and KV heads, of the largest inside each
};

struct StepResult {
  std::vector<std::vector<TokenId>>
      accepted;                             // one per scheduled sequence; empty when none sampled
  std::vector<std::vector<PageHeat>> heat;  // by page, one list per scheduled sequence; or empty
};

}  // namespace thermocline
