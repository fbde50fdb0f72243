#include "kernels/base/thread_pool.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

// About 30 us of spinning: longer than the gap between two operations of a step, far shorter than
// what a core shared with other threads could miss.
constexpr int kSpins = 1000;

constexpr uint32_t kOpen = 1U << 31;  // the bit of inside_ that says so: more workers may come

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
  inside_.store(kOpen, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  RunLoop();
  AwaitWorkers();
}

// Lets no more workers into the loop and waits for those inside: they use the loop's state until
// they leave.
void ThreadPool::AwaitWorkers() {
  uint32_t inside = inside_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (int spins = 0; inside != 0; inside = inside_.load(std::memory_order_acquire)) {
    if (++spins < kSpins) {
      Pause();
    } else {
      inside_.wait(inside, std::memory_order_acquire);
    }
  }
}

// Whether the loop was open to workers. It may be a later loop than the one that woke this worker.
bool ThreadPool::Enter() {
  uint32_t inside = inside_.load(std::memory_order_relaxed);
  while ((inside & kOpen) != 0) {
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::Leave() {
  if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) {  // the last to leave a closed loop
    inside_.notify_one();
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
    seen = current;
    if (Enter()) {
      RunLoop();
      Leave();
    }
  }
}

}  // namespace thermocline
