#include "engine/baselines/evicting_runner.h"

#include <utility>

namespace thermocline {

EvictingRunner::EvictingRunner(std::unique_ptr<EvictingOps> ops, std::unique_ptr<Runner> runner)
    : ops_(std::move(ops)), runner_(std::move(runner)) {}

Result<RunResult> EvictingRunner::Run(const StepPlan& plan) {
  Evictor& evictor = ops_->evictor();
  evictor.BeginStep(plan);
  Result<RunResult> result = runner_->Run(plan);
  if (!result.ok()) {
    return result;
  }
  evictor.EndStep(plan);
  for (const ScheduledSequence& scheduled : plan.sequences) {
    result->held_bytes.push_back(evictor.HeldBytes(scheduled));
  }
  return result;
}

void EvictingRunner::StartMoves(std::span<const PageMove> moves) { runner_->StartMoves(moves); }

std::vector<FinishedMove> EvictingRunner::FinishedMoves(bool wait) {
  return runner_->FinishedMoves(wait);
}

double EvictingRunner::move_seconds() const { return runner_->move_seconds(); }

}  // namespace thermocline
