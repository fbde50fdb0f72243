#include "tests/testing/fake_model.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "tests/testing/token_hash.h"

namespace thermocline {
namespace {

TokenId Predict(uint64_t state, int choice, int vocab_size) {
  return static_cast<TokenId>(Mix(state + static_cast<uint64_t>(choice)) %
                              static_cast<uint64_t>(vocab_size));
}

}  // namespace

FakeRunner::FakeRunner(const PagePool& pool, int vocab_size)
    : pool_(pool),
      vocab_size_(vocab_size),
      cache_(pool.arena().num_units() * static_cast<size_t>(pool.layout().page_tokens)),
      losses_(cache_.size(), Tier::kHot),
      first_positions_(pool.arena().num_units()) {}

void FakeRunner::StartMoves(std::span<const PageMove> moves) {
  moves_.insert(moves_.end(), moves.begin(), moves.end());
}

std::vector<FinishedMove> FakeRunner::FinishedMoves(bool wait) {
  std::vector<FinishedMove> finished;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  while (!moves_.empty() && (wait || Mix(num_moves_ + static_cast<size_t>(num_runs_)) % 3 > 0)) {
    FinishedMove move{.move = moves_.front()};
    moves_.pop_front();
    ++num_moves_;
    if (move_outcome) {
      move.result.outcome = move_outcome(move.move);
    }
    const bool ok = move.result.outcome == MoveResult::Outcome::kOk;
    for (size_t i = 0; i < page_tokens; ++i) {
      cache_[move.move.to.unit() * page_tokens + i] =
          ok ? cache_[move.move.from.unit() * page_tokens + i] : ~uint64_t{0};
      losses_[move.move.to.unit() * page_tokens + i] =
          std::max(losses_[move.move.from.unit() * page_tokens + i], move.move.to.tier());
    }
    int32_t& first_position = first_positions_[move.move.from.unit()];
    CHECK(move.move.from.tier() == move.move.to.tier() ||
          move.move.first_position == first_position);
    first_positions_[move.move.to.unit()] = first_position;
    finished.push_back(move);
  }
  return finished;
}

FakeRunner::States FakeRunner::StatesAt(PageEntry place) const {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const uint64_t* values = cache_.data() + place.unit() * page_tokens;
  const Tier* losses = losses_.data() + place.unit() * page_tokens;
  return {.values = {values, values + page_tokens}, .losses = {losses, losses + page_tokens}};
}

void FakeRunner::SetStatesAt(PageEntry place, const States& states, int32_t first_position) {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  CHECK(states.values.size() == page_tokens && states.losses.size() == page_tokens);
  const auto begin = static_cast<std::ptrdiff_t>(place.unit() * page_tokens);
  std::copy(states.values.begin(), states.values.end(), cache_.begin() + begin);
  std::copy(states.losses.begin(), states.losses.end(), losses_.begin() + begin);
  first_positions_[place.unit()] = first_position;
}

std::vector<TokenId> FakeRunner::ExpectedOutput(std::span<const TokenId> prompt, int choice,
                                                int num_tokens, int vocab_size) {
  uint64_t state = 0;
  for (const TokenId token : prompt) {
    state = NextState(state, token);
  }
  std::vector<TokenId> output;
  for (int i = 0; i < num_tokens; ++i) {
    output.push_back(Predict(state, choice, vocab_size));
    state = NextState(state, output.back());
  }
  return output;
}

// As Batch asks the model: every prompt token but the first, of the first choice alone. -1 each.
static void AddPromptLogprobs(const ScheduledSequence& scheduled,
                              std::vector<TokenLogprobs>& logprobs) {
  const Sequence& sequence = *scheduled.sequence;
  if (sequence.request->num_prompt_logprobs < 0 || sequence.choice != 0) {
    return;
  }
  const int end = std::min(sequence.num_computed + scheduled.num_tokens, sequence.num_prompt() - 1);
  for (int position = sequence.num_computed; position < end; ++position) {
    logprobs.push_back({sequence.tokens[static_cast<size_t>(position) + 1], -1, {}});
  }
}

Result<RunResult> FakeRunner::Run(const StepPlan& plan) {
  ++num_runs_;
  max_sequences_ = std::max(max_sequences_, plan.sequences.size());
  if (on_run) {
    if (Status status = on_run(plan); !status.ok()) {
      return status;
    }
  }
  const size_t count = plan.sequences.size();
  RunResult result(count);
  int num_tokens = 0;
  for (size_t i = 0; i < count; ++i) {
    const ScheduledSequence& scheduled = plan.sequences[i];
    num_tokens += scheduled.num_tokens;
    AddPromptLogprobs(scheduled, result.prompt_logprobs[i]);
    const TokenId next = Compute(scheduled);
    if (fails && fails(*scheduled.sequence)) {
      result.errors[i] = Internal("this sequence failed");
    } else if (scheduled.samples()) {
      result.step.accepted[i].push_back(next);
    }
  }
  max_tokens_ = std::max(max_tokens_, num_tokens);
  if (heat && plan.sample_heat) {
    for (const ScheduledSequence& scheduled : plan.sequences) {
      std::vector<PageHeat>& pages = result.step.heat.emplace_back();
      for (size_t page = 0; page < scheduled.sequence->pages.size(); ++page) {
        pages.push_back(heat(*scheduled.sequence, page));
      }
    }
  }
  return result;
}

TokenId FakeRunner::Compute(const ScheduledSequence& scheduled) {
  const Sequence& sequence = *scheduled.sequence;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const auto index = [&](size_t position) {
    const PageId page = sequence.pages[position / page_tokens];
    CHECK(pool_.num_refs(page) > 0);
    return pool_.page_map()[page].unit() * page_tokens + position % page_tokens;
  };
  const auto slot = [&](size_t position) -> uint64_t& { return cache_[index(position)]; };
  const auto begin = static_cast<size_t>(sequence.num_computed);
  const size_t end = begin + static_cast<size_t>(scheduled.num_tokens);
  // As attention does, every page is read: a page that has lost its bytes must not go unseen.
  Tier loss = Tier::kHot;
  for (size_t i = 0; i < begin; ++i) {
    const PageId page = sequence.pages[i / page_tokens];
    CHECK(std::max(losses_[index(i)], pool_.tier(page)) <= pool_.loss(page));
    loss = std::max({loss, losses_[index(i)], pool_.tier(page)});
    CHECK(slot(i) == NextState(i == 0 ? 0 : slot(i - 1), sequence.tokens[i]));
  }
  if (on_read) {
    on_read(sequence, loss);
  }
  uint64_t state = begin == 0 ? 0 : slot(begin - 1);
  for (size_t i = begin; i < end; ++i) {
    state = NextState(state, sequence.tokens[i]);
    CHECK(pool_.tier(sequence.pages[i / page_tokens]) == Tier::kHot);
    slot(i) = state;
    losses_[index(i)] = loss;
    CHECK(loss <= pool_.loss(sequence.pages[i / page_tokens]));
    first_positions_[pool_.page_map()[sequence.pages[i / page_tokens]].unit()] =
        static_cast<int32_t>(i / page_tokens * page_tokens);
  }
  const uint64_t shown = loss >= shows_loss_from ? Mix(state + static_cast<uint64_t>(loss)) : state;
  return Predict(shown, sequence.choice, vocab_size_);
}

}  // namespace thermocline
