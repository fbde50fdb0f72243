#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/baselines/evicting_ops.h"
#include "engine/runner.h"

namespace thermocline {

// Runs steps as another runner does, under a baseline: evicts after each, and says what is left.
// Not part of the product path: without a baseline nothing of this folder exists.
class EvictingRunner final : public Runner {
 public:
  // `ops` are those that `runner` runs its model on.
  EvictingRunner(std::unique_ptr<EvictingOps> ops, std::unique_ptr<Runner> runner);

  // RunResult::held_bytes has what the kept tokens take.
  Result<RunResult> Run(const StepPlan& plan) override;
  void StartMoves(std::span<const PageMove> moves) override;
  std::vector<FinishedMove> FinishedMoves(bool wait) override;
  double move_seconds() const override;

  Runner& runner() { return *runner_; }

 private:
  std::unique_ptr<EvictingOps> ops_;
  std::unique_ptr<Runner> runner_;  // after `ops_`, which its model borrows
};

}  // namespace thermocline
