#include "engine/kv/migrator.h"

#include <chrono>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/ops.h"

namespace thermocline {

Migrator::Migrator(Device& device, const KvCacheView& kv)
    : device_(device),
      kv_(kv),
      stream_(device.NewStream()),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

void Migrator::SetView(const KvCacheView& kv) {
  const std::lock_guard lock(mutex_);
  CHECK(queue_.empty() && !copying_);
  kv_ = kv;
}

void Migrator::Start(std::span<const PageMove> moves) {
  if (moves.empty()) {
    return;
  }
  const std::lock_guard lock(mutex_);
  queue_.insert(queue_.end(), moves.begin(), moves.end());
  wake_.notify_one();
}

std::vector<FinishedMove> Migrator::TakeFinished(bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) {
    ended_.wait(lock, [&] { return queue_.empty() && !copying_; });
  }
  return std::exchange(finished_, {});
}

double Migrator::busy_seconds() const {
  const std::lock_guard lock(mutex_);
  return busy_seconds_;
}

// One page at a time, so that a page is published as soon as it can be.
void Migrator::Run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [&] { return !queue_.empty(); }) && !stop.stop_requested()) {
    FinishedMove move{.move = queue_.front()};
    queue_.pop_front();
    copying_ = true;
    lock.unlock();
    const auto begin = std::chrono::steady_clock::now();
    device_.ops().TranscodePages(std::span(&move.move, 1), kv_, std::span(&move.result, 1),
                                 *stream_);
    if (!stream_->Sync().ok()) {
      move.result.outcome = MoveResult::Outcome::kDeviceError;
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    lock.lock();
    finished_.push_back(move);
    busy_seconds_ += elapsed.count();
    copying_ = false;
    ended_.notify_all();
  }
}

}  // namespace thermocline
