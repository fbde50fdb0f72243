#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "kernels/device.h"
#include "kernels/page_format.h"
#include "scheduler/step_plan.h"

namespace thermocline {

// Copies pages from one place to another, in the codec of the new one, on a stream and a thread of
// its own, while steps run. It touches no page state: who started a move commits it once its copy
// has ended. What it reads does not change, for only full pages move beside steps; nobody reads
// where it writes. Thread-safe.
class Migrator {
 public:
  // `device` and what `kv` points to outlive it; the page map is not read.
  Migrator(Device& device, const KvCacheView& kv);
  // Waits for the copy in work; those not begun are dropped.
  ~Migrator() = default;
  Migrator(const Migrator&) = delete;
  Migrator& operator=(const Migrator&) = delete;

  // Other formats, while nothing moves.
  void SetView(const KvCacheView& kv);
  void Start(std::span<const PageMove> moves);
  // Those that have ended since the last call, in the order of Start; `wait`: all of them.
  std::vector<FinishedMove> TakeFinished(bool wait);
  // Seconds spent copying so far, as the device measures them.
  double busy_seconds() const;

 private:
  void Run(const std::stop_token& stop);

  Device& device_;
  KvCacheView kv_;                  // guarded by mutex_ while no copy is in work
  std::unique_ptr<Stream> stream_;  // the migrator thread's

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;  // there is work
  std::condition_variable ended_;     // a copy has ended
  // Guarded by mutex_, down to busy_seconds_:
  std::deque<PageMove> queue_;
  bool copying_ = false;
  std::vector<FinishedMove> finished_;
  double busy_seconds_ = 0;

  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace thermocline
