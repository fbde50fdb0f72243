#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "engine/calibration/calibration.h"
#include "engine/calibration/live_calibration.h"
#include "engine/engine_config.h"
#include "engine/engine_stats.h"
#include "engine/kv/kv_sessions.h"
#include "engine/kv/kv_store.h"
#include "engine/kv/page_io.h"
#include "engine/loader/checkpoint.h"
#include "engine/memory_budget.h"
#include "engine/runner.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/status.h"
#include "kernels/device.h"
#include "scheduler/page_pool.h"
#include "scheduler/scheduler.h"

namespace thermocline {

// What an Engine is made of. Members are destroyed last to first: later ones borrow earlier ones.
struct EngineParts {
  std::unique_ptr<const Checkpoint> checkpoint;  // null in tests without a model
  std::unique_ptr<Device> device;                // null in tests without a model
  std::unique_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<const ChatTemplate> chat_template;  // null in tests that render nothing
  std::unique_ptr<PagePool> pool;
  std::unique_ptr<Runner> runner;
  std::unique_ptr<KvStore> store;        // null: pages live in the arena alone; then also
  std::unique_ptr<KvSessions> sessions;  // null
  std::unique_ptr<PageIo> page_io;       // null
  SchedulerConfig scheduler;
  MemoryBudget budget;
  Calibration calibration;       // in force at first; of the default formats where no page
                                 // ever cools, of safe ones while there is a live_calibration
  Calibration kept_calibration;  // what there was of it, before a budget was spent
  CalibrationState calibration_state = CalibrationState::kNotNeeded;  // without the next
  std::unique_ptr<LiveCalibration> live_calibration;  // null: there is nothing to measure
  std::function<uint64_t()> draw_seed;  // for requests without a seed; calls are serialised
};

// Measures what is to be measured, and has it in force, before anything is served. Nothing happens
// where all is known. Errors: LiveCalibration::status.
Status CalibrateNow(EngineParts& parts);

// Opens the model file and prepares all of it for one device.
Result<EngineParts> LoadEngineParts(const EngineConfig& config);

}  // namespace thermocline
