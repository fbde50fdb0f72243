#include "server/calibrate_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "engine/engine_parts.h"
#include "server/load_report.h"

namespace thermocline {

int RunCalibrate(const CalibrateOptions& options) {
  LoadProgress progress(isatty(STDERR_FILENO) == 1);
  EngineConfig config = options.engine;
  config.on_progress = [&progress](std::string_view phase, double fraction) {
    progress.Report(phase, fraction);
  };
  const Result<EngineParts> parts = LoadEngineParts(config);
  progress.Finish();
  if (!parts.ok()) {
    spdlog::error("{}", parts.status().message());
    return EXIT_FAILURE;
  }
  fmt::print("{}", FormatCalibration(parts->calibration, parts->pool->layout()));
  if (const std::string& warning = parts->budget.calibration_warning; !warning.empty()) {
    spdlog::error("{}", warning);
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

}  // namespace thermocline
