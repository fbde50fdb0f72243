#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling/token_logprobs.h"
#include "kernels/base/status.h"
#include "scheduler/step_plan.h"

namespace thermocline {

// One step's outcome: what the scheduler needs, and what clients asked to see beside it.
struct RunResult {
  RunResult() = default;
  // A place for each sequence of the plan; nothing accepted, no errors.
  explicit RunResult(size_t num_sequences)
      : output_logprobs(num_sequences), prompt_logprobs(num_sequences), errors(num_sequences) {
    step.accepted.resize(num_sequences);
  }

  StepResult step;
  // Indexed as StepPlan::sequences. Empty unless asked for.
  std::vector<std::vector<TokenLogprobs>> output_logprobs;  // one per accepted token
  std::vector<std::vector<TokenLogprobs>> prompt_logprobs;  // of prompt tokens [num_computed + 1,
                                                            // num_computed + num_tokens], if prompt
  // Indexed as StepPlan::sequences: not ok when this sequence alone failed (non-finite logits).
  std::vector<Status> errors;
  // Indexed as StepPlan::sequences: what is left of a sequence's K and V after the step, under a
  // baseline that evicts tokens. Empty: all of its pages.
  std::vector<uint64_t> held_bytes;
};

// Turns a plan into tokens: one forward pass, then sampling. Called by the engine thread only.
class Runner {
 public:
  virtual ~Runner() = default;
  // An error is of the device and fails all running requests.
  virtual Result<RunResult> Run(const StepPlan& plan) = 0;
  // Copies pages beside the steps; what becomes of each is in a later FinishedMoves.
  virtual void StartMoves(std::span<const PageMove> moves) = 0;
  // The copies that have ended since the last call; `wait`: all that were started.
  virtual std::vector<FinishedMove> FinishedMoves(bool wait) = 0;
  // Seconds that copying has taken so far.
  virtual double move_seconds() const = 0;
};

}  // namespace thermocline
