#include "kernels/base/thread_pool.h"

#include <gtest/gtest.h>

#include <numeric>
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

}  // namespace
}  // namespace thermocline
