#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "engine/engine_config.h"
#include "engine/memory_budget.h"

namespace thermocline {

// Shows how far the loading of a model is: one bar that is drawn over on a terminal; in a log a
// plain line per phase, and one every ten seconds of a phase that takes longer. Used by the loading
// thread alone.
class LoadProgress {
 public:
  explicit LoadProgress(bool terminal) : terminal_(terminal) {}
  void Report(std::string_view phase, double fraction);
  void Finish();  // leaves the bar's line

 private:
  bool terminal_;
  std::string phase_;
  int drawn_percent_ = -1;
  std::chrono::steady_clock::time_point told_at_;  // the last line in a log
};

// Loads with progress on stderr.
Result<std::unique_ptr<Engine>> LoadEngine(EngineConfig config);

// Where the memory goes, as a table of lines.
std::string FormatBudget(const MemoryBudget& budget);

}  // namespace thermocline
