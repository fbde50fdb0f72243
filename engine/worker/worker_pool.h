#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/worker/frame.h"
#include "engine/worker/worker_process.h"
#include "kernels/base/status.h"

namespace thermocline {

struct WorkerPoolOptions {
  std::string program;
  std::vector<std::string> arguments;
  std::string setup;    // each worker's first request
  int min_workers = 2;  // one that works and one that is ready
  int max_workers = 3;
  size_t max_resident_bytes = size_t{512} << 20;  // for one worker
  size_t max_answer_bytes = size_t{32} << 20;
  std::chrono::milliseconds start_timeout{60'000};  // for a program to start, on a busy machine too
  std::chrono::milliseconds setup_timeout{10'000};
  std::chrono::milliseconds wait_timeout{30'000};  // for a free worker
  // A request that has used this much of a CPU is slow; more than `max_slow` at a time are ended,
  // so that slow ones never hold all workers, nor all threads that call.
  std::chrono::milliseconds slow_after{400};
  int max_slow = 1;
};

// Runs requests that may cost anything, for instance because somebody else wrote the program that
// they run, in processes that can be killed. A request costs at most its time and the worker's
// memory; whatever happens to the worker is an error of that request alone, and another worker is
// ready or soon will be. Thread-safe: callers wait, each with a worker of its own.
class WorkerPool {
 public:
  // Returns when the first worker has answered `setup`; its error if it did not.
  static Result<std::unique_ptr<WorkerPool>> Create(WorkerPoolOptions options);
  ~WorkerPool();  // kills the workers; no call may be running
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // The worker's answer or error. kDeadlineExceeded past `max_time`, kResourceExhausted when the
  // worker grew too large or died, kUnavailable when there is none.
  Result<std::string> Call(std::string_view request, std::chrono::milliseconds max_time);

  // Ends calls that run with kUnavailable, and refuses later ones so. Waits for nobody.
  void Stop();

  std::vector<pid_t> idle_pids() const;  // for tests

 private:
  using Clock = std::chrono::steady_clock;
  enum class Wait { kGoOn, kDeadline, kMemory, kCrowded, kStopping };

  explicit WorkerPool(WorkerPoolOptions options);
  Result<WorkerProcess> Take();
  void GiveBack(WorkerProcess worker, bool usable);
  Result<std::string> Exchange(WorkerProcess& worker, std::string_view request,
                               Clock::time_point deadline, bool& usable);
  Wait Look(const WorkerProcess& worker, Clock::time_point deadline,
            std::chrono::nanoseconds cpu_before, bool& is_slow);
  void Supervise();
  Result<WorkerProcess> Start();
  bool WantsWorker() const;  // with mutex_ held

  const WorkerPoolOptions options_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::condition_variable changed_;
  std::vector<WorkerProcess> idle_;
  std::vector<WorkerProcess> ended_;  // to be reaped by the supervisor
  int num_workers_ = 0;               // idle and busy
  int num_waiting_ = 0;
  int num_slow_ = 0;
  bool stopping_ = false;
  std::optional<Status> start_error_;  // why the last start failed, if it did
  // Starts and reaps: a worker dies with the thread that started it. Last: it uses the above.
  std::jthread supervisor_;
};

}  // namespace thermocline
