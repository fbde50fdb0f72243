// A worker that does what its request says: see Do.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "engine/worker/worker_loop.h"

namespace thermocline {
namespace {

volatile uint64_t g_work = 0;

Result<std::string> Do(std::string_view request) {
  if (request == "spin") {
    while (true) {
      g_work = g_work + 1;
    }
  }
  if (request == "sleep") {
    while (true) {
      pause();
    }
  }
  if (request == "eat") {
    std::vector<std::string> eaten;
    while (true) {
      eaten.emplace_back(size_t{1} << 20, 'x');
    }
  }
  if (request == "crash") {
    std::abort();
  }
  if (request == "fail") {
    return InvalidArgument("no");
  }
  if (request == "open") {
    return std::string(open("/dev/null", O_RDONLY) < 0 ? "refused" : "opened");
  }
  if (request == "descriptors") {
    std::string found;
    for (int fd = 0; fd < 256; ++fd) {
      if (fcntl(fd, F_GETFD) >= 0) {
        found += std::to_string(fd) + " ";
      }
    }
    return found;
  }
  if (request == "pid") {
    return std::to_string(getpid());
  }
  return std::string(request);
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  using thermocline::WorkerHandler;
  return thermocline::RunWorker(argc, argv, {},
                                [argc, argv]() -> thermocline::Result<WorkerHandler> {
                                  if (argc > 2 && std::string(argv[2]) == "broken") {
                                    return thermocline::FailedPrecondition("it is broken");
                                  }
                                  return WorkerHandler(&thermocline::Do);
                                });
}
