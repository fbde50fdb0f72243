#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/runner.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// A model whose next token depends on every token before it, in order: a running hash. What it
// writes for a position it writes into that position's place of the sequence's page, and it reads
// what came before from there. So a page that is shared, freed, overwritten or found wrongly gives
// another output than ExpectedOutput. Moves copy what a page holds, in the order of StartMoves,
// some of them only when a later step has run; each must say where in its sequence its page is.
// It knows the loss of every position (see PagePool) from what it has copied and read itself, and
// checks that the pool hides none.
class FakeRunner : public Runner {
 public:
  // `pool` outlives it.
  FakeRunner(const PagePool& pool, int vocab_size);

  Result<RunResult> Run(const StepPlan& plan) override;
  void StartMoves(std::span<const PageMove> moves) override;
  std::vector<FinishedMove> FinishedMoves(bool wait) override;
  double move_seconds() const override {
    return seconds_per_move * static_cast<double>(num_moves_);
  }

  // What a page's place holds, and the way back, as a transfer copies bytes.
  struct States {
    std::vector<uint64_t> values;
    std::vector<Tier> losses;
  };
  States StatesAt(PageEntry place) const;
  void SetStatesAt(PageEntry place, const States& states, int32_t first_position);

  // What a request with this prompt gives, whatever else runs.
  static std::vector<TokenId> ExpectedOutput(std::span<const TokenId> prompt, int choice,
                                             int num_tokens, int vocab_size);

  // What a move is said to take: the longer, the fewer are done in the background.
  double seconds_per_move = 1e-9;

  // Called at the start of each step; may block, or fail the device.
  std::function<Status(const StepPlan&)> on_run;
  // When set, sequences for which it holds fail alone.
  std::function<bool(const Sequence&)> fails;

  // When set, the energy of each page that a step reads, at the steps that ask for it.
  std::function<PageHeat(const Sequence&, size_t index)> heat;

  // A token that is computed from positions of so much loss, or more, is another one than
  // ExpectedOutput says.
  Tier shows_loss_from = Tier::kBacked;
  // When set, told of each sequence of a step and the greatest loss that it reads.
  std::function<void(const Sequence&, Tier loss)> on_read;

  // When set, says how a move ends; one that does not end well leaves rubbish in the new place.
  std::function<MoveResult::Outcome(const PageMove&)> move_outcome;

  size_t num_moves() const { return num_moves_; }
  int num_runs() const { return num_runs_; }
  size_t max_sequences() const { return max_sequences_; }  // of one step so far
  int max_tokens() const { return max_tokens_; }           // of one step so far

 private:
  TokenId Compute(const ScheduledSequence& scheduled);

  const PagePool& pool_;
  int vocab_size_;
  std::vector<uint64_t> cache_;  // [arena units, page_tokens], the state after each position
  std::vector<Tier> losses_;     // as cache_: of each state
  std::vector<int32_t> first_positions_;  // [arena units], of what cache_ holds there
  std::deque<PageMove> moves_;            // started
  size_t num_moves_ = 0;                  // ended
  int num_runs_ = 0;
  size_t max_sequences_ = 0;
  int max_tokens_ = 0;
};

}  // namespace thermocline
