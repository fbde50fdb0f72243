#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace thermocline {

// Runs loops over a fixed set of threads, the caller among them. Idle workers spin for some tens of
// microseconds, then sleep on a futex: on shared cores an unbounded spin would starve the server.
// A loop does not wait for a worker that has not begun with it: one that another process keeps off
// its core costs its share of the work and no more.
// One thread calls ParallelFor at a time; bodies may not call it.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // at least 1, the calling thread included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls body(begin, end) on disjoint ranges that cover [0, num_items), each at most `grain` long
  // (but the split may be coarser for cheap bodies: at least one item each). Returns when all are
  // done. Which thread runs which range is not fixed, so bodies must not depend on it.
  void ParallelFor(int64_t num_items, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end)>& body);

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

 private:
  struct Loop {
    const std::function<void(int64_t, int64_t)>* body = nullptr;
    int64_t num_items = 0;
    int64_t grain = 1;
  };
  void Work();
  bool Enter();
  void Leave();
  void RunLoop();
  void AwaitWorkers();

  Loop loop_;                            // written by the caller, while no worker is inside
  std::atomic<int64_t> next_item_{0};    // the running loop's next item
  std::atomic<uint32_t> generation_{0};  // rises by one for each loop; workers wait on it
  std::atomic<uint32_t> inside_{0};      // workers in the running loop; kOpen while more may come
  std::atomic<bool> stopping_{false};
  std::vector<std::jthread> workers_;
};

}  // namespace thermocline
