#pragma once

#include <string>

#include "server/cli/command_line.h"

namespace thermocline {

// `thermocline serve`: runs until SIGTERM or SIGINT. The first signal refuses new requests and lets
// running ones finish within the shutdown timeout; a second one ends the process at once. Returns
// the exit code.
int RunServe(const ServeOptions& options, const std::string& version);

}  // namespace thermocline
