#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "engine/store/store_usage.h"
#include "kernels/page_format.h"
#include "scheduler/scheduler_stats.h"

namespace thermocline {

// Steps, and the tokens that went through them.
struct StepStats {
  uint64_t num_steps = 0;
  double seconds = 0;
  uint64_t prompt_tokens = 0;  // those of admitted requests
  uint64_t generated_tokens = 0;
};

// The pages' memory.
struct ArenaStats {
  uint64_t num_pages = 0;         // that it holds, all hot
  uint64_t num_free_pages = 0;    // hot ones that fit beside all pages, the moves' reserve included
  uint64_t num_cached_pages = 0;  // held by the prefix cache alone: evictable
  uint64_t bytes = 0;
  uint64_t free_bytes = 0;       // that no page takes
  uint64_t num_superblocks = 0;  // see Arena
  uint64_t num_empty_superblocks = 0;
  std::array<uint64_t, kNumTiers> tier_pages{};  // pages in use or cached
  std::array<uint64_t, kNumTiers> tier_bytes{};
  std::array<uint64_t, kNumTiers> tier_page_bytes{};  // one page's; 0: the tier is not to be had
};

// Page moves, beside what TierStats says of those that have ended.
struct MoveStats {
  uint64_t num_moving = 0;  // pages
  double seconds = 0;       // that copying pages has taken
};

// Which formats cold pages have, and how far the measuring of better ones is.
enum class CalibrationState : uint8_t {
  kNotNeeded,   // no page cools
  kOff,         // SafeKvFormats are in force and stay so
  kMeasuring,   // SafeKvFormats are in force
  kSwitching,   // measured; they are still in force
  kFailed,      // they stay so
  kCalibrated,  // the model's own are
};

struct CalibrationStats {
  CalibrationState state = CalibrationState::kNotNeeded;
  double fraction = 0;  // in [0, 1]: how far measuring is
  double cold_kl = 0;   // what the model's own formats cost, before a budget widens them; else 0
};

// A consistent picture of the engine, taken after each step.
struct EngineStats {
  SchedulerStats scheduler;
  StepStats steps;
  ArenaStats arena;
  TierStats tiers;
  MoveStats moves;
  CalibrationStats calibration;
  std::optional<StoreUsage> store;  // nothing: pages live in the arena alone
};

}  // namespace thermocline
