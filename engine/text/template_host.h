#pragma once

#include "engine/worker/worker_loop.h"
#include "kernels/base/status.h"

namespace thermocline {

// Starts CPython with Jinja2 in this process and returns the function that answers template calls.
// A process can have one, which lives until the process ends. kFailedPrecondition: there is no
// jinja2.
Result<WorkerHandler> StartTemplateHost();

}  // namespace thermocline
