#include "engine/worker/worker_loop.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <new>

#include "engine/worker/frame.h"

namespace thermocline {
namespace {

constexpr int kSocket = 3;
constexpr int kStatm = 4;
constexpr size_t kKeptBytes = size_t{32} << 20;  // more than this, and the worker is replaced

// A sanitizer's runtime needs addresses of its own to report an error, so its builds have no limit
// on them. The parent's limit on resident bytes holds in all builds.
#ifdef THERMOCLINE_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

void SetLimit(int resource, rlim_t soft, rlim_t hard) {
  const rlimit limit{.rlim_cur = soft, .rlim_max = hard};
  setrlimit(static_cast<__rlimit_resource_t>(resource), &limit);
}

// This process's sizes, read from its open /proc/self/statm.
size_t AddressSpaceBytes() {
  std::array<char, 32> text{};
  if (pread(kStatm, text.data(), text.size() - 1, 0) <= 0) {
    return 0;
  }
  return std::strtoull(text.data(), nullptr, 10) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

bool Always() { return true; }

// Called before any input is read, when all that needs files is done. All descriptors below the
// limit are taken, so that nothing can be opened; a limit of 0 would make poll() fail.
void GiveUpFilesAndProcesses() {
  SetLimit(RLIMIT_NOFILE, kStatm + 1, kStatm + 1);
  SetLimit(RLIMIT_NPROC, 0, 0);
  SetLimit(RLIMIT_FSIZE, 0, 0);
  SetLimit(RLIMIT_CORE, 0, 0);
}

// Sets what the next request may use.
class Allowance {
 public:
  explicit Allowance(const WorkerLimits& limits) : limits_(limits) {}

  void Set(size_t request_bytes, bool is_setup) {
    const size_t wanted = is_setup ? limits_.setup_bytes
                                   : limits_.request_bytes + limits_.bytes_per_request_byte *
                                                                 request_bytes / kStep * kStep;
    const size_t allowed = std::min(wanted, limits_.max_bytes);
    if (!kSanitized && allowed != allowed_) {
      allowed_ = allowed;
      SetLimit(RLIMIT_AS, idle_bytes_ + allowed, RLIM_INFINITY);
    }
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const rlim_t seconds = static_cast<rlim_t>(used.ru_utime.tv_sec + used.ru_stime.tv_sec);
    if (seconds + static_cast<rlim_t>(limits_.cpu_seconds) / 2 >= cpu_limit_) {
      cpu_limit_ = seconds + static_cast<rlim_t>(limits_.cpu_seconds);
      SetLimit(RLIMIT_CPU, cpu_limit_, RLIM_INFINITY);
    }
  }

  // Whether the process has grown much since it was measured. Called when idle, also after setup.
  bool HasKeptMemory() const {
    return !kSanitized && AddressSpaceBytes() > idle_bytes_ + kKeptBytes;
  }
  void Measure() {
    idle_bytes_ = AddressSpaceBytes();
    allowed_ = 0;
  }

 private:
  static constexpr size_t kStep = size_t{1} << 22;  // small requests all get the same

  const WorkerLimits limits_;
  size_t idle_bytes_ = AddressSpaceBytes();
  size_t allowed_ = 0;
  rlim_t cpu_limit_ = 0;
};

Result<std::string> Handle(const WorkerHandler& handler, std::string_view request) {
  try {
    return handler(request);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("it needs too much memory");
  }
}

void Serve(const WorkerHandler& handler, const WorkerLimits& limits) {
  constexpr size_t kLargeBytes = size_t{1} << 18;  // smaller ones leave little behind
  Allowance allowance(limits);
  Frame request;
  for (bool is_setup = true;; is_setup = false) {
    if (ReceiveFrame(kSocket, std::numeric_limits<uint32_t>::max(), request, &Always) !=
        FrameResult::kDone) {
      return;
    }
    allowance.Set(request.body.size(), is_setup);
    const Result<std::string> answer = Handle(handler, request.body);
    if (is_setup) {
      allowance.Measure();
    }
    const StatusCode code = answer.status().code();
    const bool is_large =
        request.body.size() + (answer.ok() ? answer->size() : kLargeBytes) > kLargeBytes;
    if (request.body.capacity() > kLargeBytes) {
      request.body = std::string();
    }
    const bool last =
        code == StatusCode::kResourceExhausted || (is_large && allowance.HasKeptMemory());
    if (SendFrame(kSocket, code, last, answer.ok() ? *answer : answer.status().message(),
                  &Always) != FrameResult::kDone ||
        last) {
      return;
    }
  }
}

}  // namespace

int RunWorker(int argc, char** argv, const WorkerLimits& limits,
              const std::function<Result<WorkerHandler>()>& start) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 2 || getppid() != std::atoi(argv[1])) {
    return EXIT_FAILURE;  // the parent has gone already, or somebody typed this program's name
  }
  if (open("/proc/self/statm", O_RDONLY | O_CLOEXEC) != kStatm) {
    return EXIT_FAILURE;
  }
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) {
    signal(signal_number, SIG_IGN);  // it ends with its parent, whose answers it may still owe
  }
  const Result<WorkerHandler> handler = start();
  const std::string& message = handler.status().message();
  GiveUpFilesAndProcesses();
  if (SendFrame(kSocket, handler.status().code(), !handler.ok(), message, &Always) ==
          FrameResult::kDone &&
      handler.ok()) {
    Serve(*handler, limits);
  }
  return EXIT_SUCCESS;
}

}  // namespace thermocline
