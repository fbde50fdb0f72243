#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/base/token.h"
#include "kernels/ops.h"
#include "scheduler/step_plan.h"

namespace thermocline {

// A row of a batch whose logits are wanted, and what for.
struct LogitRow {
  int32_t row = 0;       // token of the batch
  int32_t sequence = 0;  // index in StepPlan::sequences
  // Set: report the log probability of this prompt token, the next one. Nothing: sample.
  std::optional<TokenId> prompt_token;
};

// A StepPlan as the flat arrays that operations read. Kept from step to step for its memory.
class Batch {
 public:
  // Replaces what was there. The plan's sequences have pages for all their scheduled tokens.
  void Build(const StepPlan& plan, int page_tokens);

  std::span<const LogitRow> logit_rows() const { return logit_rows_; }  // ascending rows
  BatchView view() const;  // borrows: valid until the next Build

 private:
  void AddSequence(const ScheduledSequence& scheduled, int index);

  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> sequence_starts_;
  std::vector<int32_t> page_starts_;
  std::vector<PageId> page_ids_;
  std::vector<LogitRow> logit_rows_;
};

}  // namespace thermocline
