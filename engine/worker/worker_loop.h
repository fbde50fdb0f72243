#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// What a worker may use. Memory is counted in address space beyond what the idle worker has, except
// under sanitizers, whose address space means nothing; there the parent's look at resident memory
// bounds it alone.
struct WorkerLimits {
  size_t setup_bytes = size_t{256} << 20;   // for the first request
  size_t request_bytes = size_t{64} << 20;  // for each later request, and for each of its bytes:
  size_t bytes_per_request_byte = 32;
  size_t max_bytes = size_t{1} << 30;
  int cpu_seconds = 20;  // for a request; the parent's clock comes first, unless it is stopped
};

using WorkerHandler = std::function<Result<std::string>(std::string_view request)>;

// A worker program's main, behind WorkerProcess::Spawn: gives up what a worker does not need, calls
// `start`, says to the parent how that went, then answers requests until the parent goes. After
// an answer of kResourceExhausted, or when it has kept memory, the process ends, to be replaced by
// a fresh one. Returns the exit code.
int RunWorker(int argc, char** argv, const WorkerLimits& limits,
              const std::function<Result<WorkerHandler>()>& start);

}  // namespace thermocline
