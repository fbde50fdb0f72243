#include "server/cli/calibrate_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "engine/engine_parts.h"
#include "server/cli/load_report.h"

namespace thermocline {

int RunCalibrate(const CalibrateOptions& options) {
  LoadProgress progress(isatty(STDERR_FILENO) == 1);
  EngineConfig config = options.engine;
  config.on_progress = [&progress](std::string_view phase, double fraction) {
    progress.Report(phase, fraction);
  };
  const Result<EngineParts> parts = LoadEngineParts(config);
  if (!parts.ok()) {
    progress.Finish();
    spdlog::error("{}", parts.status().message());
    return EXIT_FAILURE;
  }
  const KvLayout& layout = parts->pool->layout();
  LiveCalibration* live = parts->live_calibration.get();
  while (live != nullptr && !live->ended()) {
    live->Step(layout.page_tokens);
    progress.Report("calibration", live->fraction());
  }
  progress.Finish();
  if (live == nullptr) {
    fmt::print("{}", FormatCalibration(parts->kept_calibration, layout));
    return EXIT_SUCCESS;
  }
  if (!live->status().ok()) {
    spdlog::error("{}", live->status().message());
    return EXIT_FAILURE;
  }
  fmt::print("{}", FormatCalibration(live->result(), layout));
  if (!live->keep_warning().empty()) {
    spdlog::error("the calibration is not kept: {}", live->keep_warning());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

}  // namespace thermocline
