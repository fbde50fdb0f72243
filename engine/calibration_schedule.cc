#include "engine/calibration_schedule.h"

namespace thermocline {

CalibrationSchedule::Outcome CalibrationSchedule::TakeTurn(EngineCore& core, bool had_work) {
  if (!pending()) {
    return Outcome::kNothing;
  }
  if (live()->ended()) {
    if (!core.CanSwitchFormats() && ++num_steps_before_switch_ <= kMaxStepsBeforeSwitch) {
      return Outcome::kNothing;
    }
    core.SwitchFormats(live()->page_bytes(), [this] { live()->Switch(); });
    return Outcome::kSwitched;
  }
  // Between moves and transfers that a request waits for there is no time to spare.
  if (had_work ? core.last_step_seconds() <= 0 : !has_idle_work(core)) {
    return Outcome::kNothing;
  }
  live()->Work(had_work ? core.last_step_seconds() : 0);
  return Outcome::kWorked;
}

CalibrationStats CalibrationSchedule::stats() const {
  if (live() == nullptr) {
    const bool calibrated = parts_.calibration_state == CalibrationState::kCalibrated;
    return {.state = parts_.calibration_state,
            .fraction = calibrated ? 1.0 : 0.0,
            .cold_kl = parts_.calibration.cold_kl};
  }
  const CalibrationState state = live()->switched()       ? CalibrationState::kCalibrated
                                 : live()->wants_switch() ? CalibrationState::kSwitching
                                 : live()->ended()        ? CalibrationState::kFailed
                                                          : CalibrationState::kMeasuring;
  return {.state = state,
          .fraction = live()->fraction(),
          .cold_kl = live()->switched() ? live()->result().cold_kl : 0};
}

}  // namespace thermocline
