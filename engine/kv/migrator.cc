#include "engine/kv/migrator.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/ops.h"

namespace thermocline {

Migrator::Migrator(Device& device, const KvCacheView& kv)
    : device_(device),
      kv_(kv),
      stream_(device.NewStream(StreamPriority::kBackground)),
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

// Takes as many pages as the device moves well at once, and no more: a page is published as soon as
// it can be.
void Migrator::Run(const std::stop_token& stop) {
  const auto most = static_cast<size_t>(device_.ops().max_moves_at_once());
  std::vector<PageMove> moves;
  std::vector<MoveResult> results;
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [&] { return !queue_.empty(); }) && !stop.stop_requested()) {
    const auto end = queue_.begin() + static_cast<ptrdiff_t>(std::min(most, queue_.size()));
    moves.assign(queue_.begin(), end);
    queue_.erase(queue_.begin(), end);
    copying_ = true;
    lock.unlock();
    results.assign(moves.size(), {});
    device_.ops().TranscodePages(moves, kv_, results, *stream_);
    const bool ok = stream_->Sync().ok();
    lock.lock();
    for (size_t i = 0; i < moves.size(); ++i) {
      if (!ok) {
        results[i].outcome = MoveResult::Outcome::kDeviceError;
      }
      finished_.push_back({.move = moves[i], .result = results[i]});
      busy_seconds_ += static_cast<double>(results[i].seconds);
    }
    copying_ = false;
    ended_.notify_all();
  }
}

}  // namespace thermocline
