#pragma once

#include <cstdint>

#include "engine/calibration/live_calibration.h"
#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "engine/engine_stats.h"

namespace thermocline {

// When a LiveCalibration gets its turn: a piece of work after a step or while the engine is idle,
// and at the end the switch to the formats that were found. The switch waits for a moment when it
// costs no request anything, or for kMaxStepsBeforeSwitch steps. Not thread-safe: it is the engine
// thread's.
class CalibrationSchedule {
 public:
  // `parts` outlives it.
  explicit CalibrationSchedule(const EngineParts& parts) : parts_(parts) {}

  // Whether there is a piece to do, or a switch that costs nobody anything, while no request runs
  // or waits.
  bool has_idle_work(const EngineCore& core) const {
    return pending() && !core.scheduler().has_work() &&
           (!live()->ended() || core.CanSwitchFormats());
  }

  enum class Outcome : uint8_t { kNothing, kWorked, kSwitched };
  // `had_work`: the engine has just called Step.
  Outcome TakeTurn(EngineCore& core, bool had_work);

  CalibrationStats stats() const;

 private:
  static constexpr int kMaxStepsBeforeSwitch = 1000;

  // Null: there is nothing to measure.
  LiveCalibration* live() const { return parts_.live_calibration.get(); }
  bool pending() const { return live() != nullptr && (!live()->ended() || live()->wants_switch()); }

  const EngineParts& parts_;
  int num_steps_before_switch_ = 0;
};

}  // namespace thermocline
