#include "kernels/base/thread_pool.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

// About 30 us of spinning: longer than the gap between two operations of a step, far shorter than
// what a core shared with other threads could miss.
constexpr int kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  CHECK(num_threads >= 1);
  for (int i = 1; i < num_threads; ++i) {
    workers_.emplace_back([this] { Work(); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
}

void ThreadPool::ParallelFor(int64_t num_items, int64_t grain,
                             const std::function<void(int64_t, int64_t)>& body) {
  CHECK(grain >= 1);
  if (workers_.empty() || num_items <= grain) {
    if (num_items > 0) {
      body(0, num_items);
    }
    return;
  }
  loop_ = {.body = &body, .num_items = num_items, .grain = grain};
  next_item_.store(0, std::memory_order_relaxed);
  num_busy_.store(static_cast<int32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  RunLoop();
  // The loop's state is the workers' until each has left it.
  int spins = 0;
  for (int32_t busy = num_busy_.load(std::memory_order_acquire); busy != 0;
       busy = num_busy_.load(std::memory_order_acquire)) {
    if (++spins < kSpins) {
      Pause();
    } else {
      num_busy_.wait(busy, std::memory_order_acquire);
    }
  }
}

void ThreadPool::RunLoop() {
  while (true) {
    const int64_t begin = next_item_.fetch_add(loop_.grain, std::memory_order_relaxed);
    if (begin >= loop_.num_items) {
      return;
    }
    (*loop_.body)(begin, std::min(begin + loop_.grain, loop_.num_items));
  }
}

void ThreadPool::Work() {
  uint32_t seen = 0;
  while (true) {
    int spins = 0;
    uint32_t current = generation_.load(std::memory_order_acquire);
    while (current == seen) {
      if (++spins < kSpins) {
        Pause();
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
      current = generation_.load(std::memory_order_acquire);
    }
    if (stopping_) {
      return;
    }
    // A loop ends only when every worker has left it, so no generation can be missed.
    seen = current;
    RunLoop();
    if (num_busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      num_busy_.notify_one();
    }
  }
}

}  // namespace thermocline
