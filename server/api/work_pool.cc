#include "server/api/work_pool.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace thermocline {
namespace {

// A tenth of the time of a thread at the usual priority, where there is no core to spare.
constexpr int kLargeNice = 10;

void RunJob(const std::function<void()>& work, const std::function<void()>& failed) noexcept {
  try {
    work();
    return;
  } catch (const std::exception& error) {
    spdlog::error("a request failed: {}", error.what());
  }
  try {
    failed();
  } catch (const std::exception& error) {  // the writer answers when it is destroyed
    spdlog::error("and so did its answer: {}", error.what());
  }
}

}  // namespace

WorkPool::WorkPool(int num_small) {
  for (int i = 0; i < num_small; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { Run(stop, 0); });
  }
  for (size_t work_class = 1; work_class < kNumClasses; ++work_class) {
    threads_.emplace_back(
        [this, work_class](const std::stop_token& stop) { Run(stop, work_class); });
  }
}

WorkPool::~WorkPool() {
  for (std::jthread& thread : threads_) {
    thread.request_stop();
  }
  threads_.clear();  // joins
}

void WorkPool::Post(size_t num_bytes, std::function<void()> work, std::function<void()> failed) {
  const auto bound = std::lower_bound(kClassBytes.begin(), kClassBytes.end(), num_bytes);
  const auto work_class = static_cast<size_t>(bound - kClassBytes.begin());
  const std::lock_guard lock(mutex_);
  jobs_[work_class].push_back({std::move(work), std::move(failed)});
  wake_[work_class].notify_one();
}

void WorkPool::Run(const std::stop_token& stop, size_t work_class) {
  if (work_class + 1 == kNumClasses) {
    // On Linux a thread's own; where it is refused, large work just runs as all does.
    (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLargeNice);
  }
  std::unique_lock lock(mutex_);
  std::deque<Job>& jobs = jobs_[work_class];
  while (wake_[work_class].wait(lock, stop, [&jobs] { return !jobs.empty(); }) &&
         !stop.stop_requested()) {
    Job job = std::move(jobs.front());
    jobs.pop_front();
    lock.unlock();
    RunJob(job.work, job.failed);
    job = {};  // what it holds ends outside the lock
    lock.lock();
  }
}

}  // namespace thermocline
