#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace thermocline {

// Runs what a request needs before the engine sees it and after: parsing, templates, tokenising,
// large answers. Work is sorted by the bytes that it reads. Each class has threads of its own, and
// the largest runs below everybody's priority: however many large requests there are, a small one
// waits for small ones alone. Within a class, first come, first served: a connection has one
// request at a time, so that is in turns. Thread-safe.
class WorkPool {
 public:
  // Bytes up to which work is small, and medium.
  static constexpr std::array<size_t, 2> kClassBytes = {size_t{16} << 10, size_t{256} << 10};

  // `num_small`: threads for small work. One thread each for medium and large.
  explicit WorkPool(int num_small);
  ~WorkPool();  // ends what runs, drops what waits
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // `work` may throw what libraries throw; then `failed` is called, on the same thread.
  void Post(size_t num_bytes, std::function<void()> work, std::function<void()> failed);

 private:
  static constexpr size_t kNumClasses = kClassBytes.size() + 1;
  struct Job {
    std::function<void()> work;
    std::function<void()> failed;
  };

  void Run(const std::stop_token& stop, size_t work_class);

  std::mutex mutex_;
  // Guarded by mutex_.
  std::array<std::deque<Job>, kNumClasses> jobs_;
  std::array<std::condition_variable_any, kNumClasses> wake_;
  std::vector<std::jthread> threads_;  // last: they use all of the above
};

}  // namespace thermocline
