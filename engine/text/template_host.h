#pragma once

#include "engine/worker/worker_loop.h"
#include "kernels/base/status.h"

namespace thermocline {

// Starts this process's CPython with Jinja2 and gives what answers TemplateCalls. A process can
// have one, which lives to the process's end. kFailedPrecondition without jinja2.
Result<WorkerHandler> StartTemplateHost();

}  // namespace thermocline
