#include "engine/batch.h"

#include "kernels/base/check.h"

namespace thermocline {

void Batch::Build(const StepPlan& plan, int page_tokens) {
  tokens_.clear();
  positions_.clear();
  page_ids_.clear();
  logit_rows_.clear();
  sequence_starts_.assign(1, 0);
  page_starts_.assign(1, 0);
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const ScheduledSequence& scheduled = plan.sequences[i];
    const Sequence& sequence = *scheduled.sequence;
    CHECK(scheduled.num_tokens > 0 && scheduled.num_tokens <= sequence.num_wanted());
    CHECK(sequence.pages.size() * static_cast<size_t>(page_tokens) >=
          static_cast<size_t>(sequence.num_computed + scheduled.num_tokens));
    AddSequence(scheduled, static_cast<int>(i));
  }
}

void Batch::AddSequence(const ScheduledSequence& scheduled, int index) {
  const Sequence& sequence = *scheduled.sequence;
  // Choices share their prompt, so the first one speaks for all.
  const bool wants_prompt_logprobs =
      sequence.request->num_prompt_logprobs >= 0 && sequence.choice == 0;
  const int end = sequence.num_computed + scheduled.num_tokens;
  for (int position = sequence.num_computed; position < end; ++position) {
    if (wants_prompt_logprobs && position + 1 < sequence.num_prompt()) {
      logit_rows_.push_back({static_cast<int32_t>(tokens_.size()), index,
                             sequence.tokens[static_cast<size_t>(position) + 1]});
    }
    tokens_.push_back(sequence.tokens[static_cast<size_t>(position)]);
    positions_.push_back(position);
  }
  if (scheduled.samples()) {
    logit_rows_.push_back({static_cast<int32_t>(tokens_.size()) - 1, index, std::nullopt});
  }
  const std::span<const PageId> pages = sequence.pages.ids();
  page_ids_.insert(page_ids_.end(), pages.begin(), pages.end());
  sequence_starts_.push_back(static_cast<int32_t>(tokens_.size()));
  page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
}

BatchView Batch::view() const {
  return {.num_tokens = static_cast<int>(tokens_.size()),
          .num_sequences = static_cast<int>(sequence_starts_.size()) - 1,
          .sequence_starts = sequence_starts_.data(),
          .positions = positions_.data(),
          .page_starts = page_starts_.data(),
          .page_ids = page_ids_.data(),
          .tokens = tokens_.data()};
}

}  // namespace thermocline
