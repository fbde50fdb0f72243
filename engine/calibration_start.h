#pragma once

#include <optional>

#include "engine/calibration/calibration.h"
#include "engine/calibration/live_calibration.h"
#include "engine/engine_config.h"
#include "engine/engine_stats.h"
#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// The formats that a model begins to serve with, at once: those of a kept calibration, or safe ones
// and what it takes to measure better ones.
struct CalibrationStart {
  Calibration in_force;
  Calibration kept;  // as measured, before a budget was spent: to print
  CalibrationState state = CalibrationState::kNotNeeded;
  std::optional<LiveCalibration::Config> to_measure;
  Calibration begun;  // for LiveCalibration, beside to_measure
};

// Whether pages cool under this policy, so that a calibration is of use.
bool Cools(KvPolicy policy);

CalibrationStart StartCalibration(const EngineConfig& config, const ContentHash& model_digest,
                                  int max_model_len, const KvLayout& layout,
                                  const ModelConfig& model, const Checkpoint& checkpoint,
                                  const Tokenizer& tokenizer);

}  // namespace thermocline
