#include "kernels/base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <latch>
#include <numeric>
#include <thread>
#include <vector>

namespace thermocline {
namespace {

TEST(ThreadPool, EveryItemRunsOnceWhateverTheGrain) {
  for (const int num_threads : {1, 2, 3, 5}) {
    ThreadPool pool(num_threads);
    for (const int64_t num_items : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<int> counts(static_cast<size_t>(num_items), 0);
        pool.ParallelFor(num_items, grain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            ++counts[static_cast<size_t>(i)];
          }
        });
        EXPECT_EQ(counts, std::vector<int>(static_cast<size_t>(num_items), 1));
      }
    }
  }
}

TEST(ThreadPool, LoopsSeeWhatEarlierLoopsWrote) {
  ThreadPool pool(3);
  std::vector<int64_t> values(97, 0);
  constexpr int kLoops = 3000;
  for (int loop = 0; loop < kLoops; ++loop) {
    pool.ParallelFor(97, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        values[static_cast<size_t>(i)] += i;
      }
    });
  }
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), kLoops * 96 * 97 / 2);
}

TEST(ThreadPool, SleepingWorkersWakeForALoop) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    // Long past the spinning: the worker sleeps on its futex.
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int64_t> sum = 0;
    pool.ParallelFor(10, 1, [&](int64_t begin, int64_t) { sum += begin; });
    EXPECT_EQ(sum, 45);
  }
}

#if !defined(__SANITIZE_THREAD__)  // which keeps a signal back from a thread that waits
// What a thread that gets SIGUSR1 does: it stays in the handler until it is let go, or gives up so
// that who waits for it fails and does not hang.
std::atomic<bool> held = false;
std::atomic<bool> let_go = false;
std::atomic<bool> gave_up = false;

void HoldThread(int /*signal*/) {
  held = true;
  for (int i = 0; !let_go; ++i) {
    if (i == 20'000) {
      gave_up = true;
      return;
    }
    constexpr timespec kMillisecond = {.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&kMillisecond, nullptr);
  }
}

TEST(ThreadPool, ALoopDoesNotWaitForAWorkerThatHasNotBegunWithIt) {
  ThreadPool pool(2);
  const pthread_t caller = pthread_self();
  std::atomic<pthread_t> worker = caller;
  std::latch both(2);
  pool.ParallelFor(2, 1, [&](int64_t, int64_t) {
    if (pthread_equal(pthread_self(), caller) == 0) {
      worker = pthread_self();
    }
    both.arrive_and_wait();
  });
  ASSERT_EQ(pthread_equal(worker, caller), 0);
  held = let_go = gave_up = false;
  ASSERT_NE(std::signal(SIGUSR1, HoldThread), SIG_ERR);
  ASSERT_EQ(pthread_kill(worker, SIGUSR1), 0);
  while (!held) {
    std::this_thread::yield();
  }
  for (int loop = 0; loop < 100; ++loop) {
    int64_t sum = 0;  // of one thread: the other is held
    pool.ParallelFor(100, 1, [&](int64_t begin, int64_t) {
      EXPECT_NE(pthread_equal(pthread_self(), caller), 0);
      sum += begin;
    });
    EXPECT_EQ(sum, 4950);
  }
  EXPECT_FALSE(gave_up);
  let_go = true;
  std::latch again(2);
  pool.ParallelFor(2, 1, [&](int64_t, int64_t) { again.arrive_and_wait(); });  // it is back
}
#endif

}  // namespace
}  // namespace thermocline
