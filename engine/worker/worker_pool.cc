#include "engine/worker/worker_pool.h"

#include <utility>

namespace thermocline {
namespace {

constexpr std::chrono::seconds kRetryInterval{
    1};  // after a start that failed, and between looks at idle

}  // namespace

Result<std::unique_ptr<WorkerPool>> WorkerPool::Create(WorkerPoolOptions options) {
  // Not make_unique: the constructor is private.
  std::unique_ptr<WorkerPool> pool(new WorkerPool(std::move(options)));
  std::unique_lock lock(pool->mutex_);
  pool->changed_.wait(lock, [&] { return pool->num_workers_ > 0 || pool->start_error_; });
  if (pool->num_workers_ == 0) {
    return *pool->start_error_;
  }
  lock.unlock();
  return pool;
}

WorkerPool::WorkerPool(WorkerPoolOptions options)
    : options_(std::move(options)), supervisor_([this] { Supervise(); }) {}

WorkerPool::~WorkerPool() { Stop(); }

void WorkerPool::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

std::vector<pid_t> WorkerPool::idle_pids() const {
  const std::lock_guard lock(mutex_);
  std::vector<pid_t> pids;
  for (const WorkerProcess& worker : idle_) {
    pids.push_back(worker.pid());
  }
  return pids;
}

Result<std::string> WorkerPool::Call(std::string_view request, std::chrono::milliseconds max_time) {
  Result<WorkerProcess> worker = Take();
  if (!worker.ok()) {
    return worker.status();
  }
  bool usable = false;
  Result<std::string> answer = Exchange(*worker, request, Clock::now() + max_time, usable);
  GiveBack(std::move(*worker), usable);
  return answer;
}

Result<WorkerProcess> WorkerPool::Take() {
  std::unique_lock lock(mutex_);
  const Clock::time_point give_up = Clock::now() + options_.wait_timeout;
  while (!stopping_) {
    if (!idle_.empty()) {
      WorkerProcess worker = std::move(idle_.back());
      idle_.pop_back();
      if (!worker.has_ended()) {
        return worker;
      }
      ended_.push_back(std::move(worker));  // somebody killed it while it was idle
      --num_workers_;
      changed_.notify_all();
      continue;
    }
    // Only a program that can never start ends the wait here. If something outside ended a worker
    // while it started, the caller waits for the next one.
    if (num_workers_ == 0 && start_error_ &&
        start_error_->code() == StatusCode::kFailedPrecondition) {
      return Unavailable("no worker process: {}", start_error_->message());
    }
    ++num_waiting_;
    changed_.notify_all();
    const bool timed_out = changed_.wait_until(lock, give_up) == std::cv_status::timeout;
    --num_waiting_;
    if (timed_out) {
      return Unavailable("all worker processes are busy");
    }
  }
  return Unavailable("the server is shutting down");
}

void WorkerPool::GiveBack(WorkerProcess worker, bool usable) {
  const std::lock_guard lock(mutex_);
  if (usable) {
    idle_.push_back(std::move(worker));
    if (num_waiting_ == 0) {
      return;  // the usual case wakes nobody
    }
  } else {
    ended_.push_back(std::move(worker));
    --num_workers_;
  }
  changed_.notify_all();
}

Result<std::string> WorkerPool::Exchange(WorkerProcess& worker, std::string_view request,
                                         Clock::time_point deadline, bool& usable) {
  std::optional<std::chrono::nanoseconds> cpu_before;
  bool is_slow = false;
  Wait why = Wait::kGoOn;
  const KeepWaiting keep_waiting = [&] {
    if (!cpu_before) {
      cpu_before = worker.cpu_time();  // most requests are answered before the first look
    }
    why = Look(worker, deadline, *cpu_before, is_slow);
    return why == Wait::kGoOn;
  };
  Frame answer;
  FrameResult result = SendFrame(worker.fd(), StatusCode::kOk, false, request, keep_waiting);
  if (result == FrameResult::kDone) {
    result = ReceiveFrame(worker.fd(), options_.max_answer_bytes, answer, keep_waiting);
  }
  {
    const std::lock_guard lock(mutex_);
    num_slow_ -= is_slow ? 1 : 0;
    if (result == FrameResult::kClosed && stopping_) {
      why = Wait::kStopping;  // workers die with the supervisor
    }
  }
  if (result == FrameResult::kDone) {
    usable = !answer.last;
    if (answer.code != StatusCode::kOk) {
      return Status(answer.code, std::move(answer.body));
    }
    return std::move(answer.body);
  }
  switch (why) {
    case Wait::kDeadline:
      return DeadlineExceeded("it took too long");
    case Wait::kMemory:
      return ResourceExhausted("it needs too much memory");
    case Wait::kCrowded:
      return DeadlineExceeded("it took too long beside another slow one");
    case Wait::kStopping:
      return Unavailable("the server is shutting down");
    case Wait::kGoOn:
      break;
  }
  return ResourceExhausted("it ended its process");
}

WorkerPool::Wait WorkerPool::Look(const WorkerProcess& worker, Clock::time_point deadline,
                                  std::chrono::nanoseconds cpu_before, bool& is_slow) {
  if (Clock::now() >= deadline) {
    return Wait::kDeadline;
  }
  if (worker.resident_bytes() > options_.max_resident_bytes) {
    return Wait::kMemory;
  }
  const bool crosses = !is_slow && worker.cpu_time() - cpu_before > options_.slow_after;
  const std::lock_guard lock(mutex_);
  if (stopping_) {
    return Wait::kStopping;
  }
  if (crosses) {
    if (num_slow_ >= options_.max_slow) {
      return Wait::kCrowded;
    }
    ++num_slow_;
    is_slow = true;
  }
  return Wait::kGoOn;
}

bool WorkerPool::WantsWorker() const {
  const bool crowded = num_waiting_ > 0 && idle_.empty();
  return num_workers_ < options_.min_workers || (crowded && num_workers_ < options_.max_workers);
}

void WorkerPool::Supervise() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::erase_if(idle_, [this](const WorkerProcess& worker) {
      const bool ended = worker.has_ended();
      num_workers_ -= ended ? 1 : 0;
      return ended;
    });
    const std::vector<WorkerProcess> reaped = std::exchange(ended_, {});
    if (WantsWorker() || !reaped.empty()) {
      const bool wanted = WantsWorker();
      lock.unlock();
      std::optional<Result<WorkerProcess>> started;
      if (wanted) {
        started = Start();
      }
      lock.lock();
      if (!started) {
        continue;
      }
      start_error_.reset();
      if (started->ok()) {
        idle_.push_back(std::move(**started));
        ++num_workers_;
      } else {
        start_error_ = started->status();
      }
      changed_.notify_all();
      if (started->ok()) {
        continue;
      }
    }
    // A start that failed is tried again after the interval, whoever asks meanwhile.
    const Clock::time_point next = Clock::now() + kRetryInterval;
    changed_.wait_until(lock, next, [this] {
      return stopping_ || !ended_.empty() || (!start_error_ && WantsWorker());
    });
  }
  idle_.clear();
  ended_.clear();
}

Result<WorkerProcess> WorkerPool::Start() {
  Result<WorkerProcess> worker = WorkerProcess::Spawn(options_.program, options_.arguments);
  if (!worker.ok()) {
    return worker;
  }
  const Clock::time_point deadline = Clock::now() + options_.start_timeout;
  bool stopping = false;
  Frame hello;  // says that it has started, or why it cannot
  const FrameResult result = ReceiveFrame(worker->fd(), options_.max_answer_bytes, hello, [&] {
    const std::lock_guard lock(mutex_);
    stopping = stopping_;
    return !stopping && Clock::now() < deadline;
  });
  if (result != FrameResult::kDone) {
    return Unavailable("a worker process did not start");
  }
  if (hello.code != StatusCode::kOk) {
    return Status(hello.code, hello.body);
  }
  bool usable = false;
  const Result<std::string> ready =
      Exchange(*worker, options_.setup, Clock::now() + options_.setup_timeout, usable);
  if (!ready.ok()) {
    return ready.status();
  }
  return worker;
}

}  // namespace thermocline
