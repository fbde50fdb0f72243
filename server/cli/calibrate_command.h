#pragma once

#include "server/cli/command_line.h"

namespace thermocline {

// `thermocline calibrate`: measures every layer, keeps the calibration where `serve` will find it
// and prints it as a table. Returns the exit code.
int RunCalibrate(const CalibrateOptions& options);

}  // namespace thermocline
