#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/device.h"
#include "tests/testing/device_window.h"

namespace thermocline {

// A stream that keeps its work until Sync, and runs it on a thread of its own. DelayedDevice's.
class DelayedStream : public Stream {
 public:
  using Work = std::function<void(Stream& inner)>;

  // `inner`: what the work is run with.
  DelayedStream(std::unique_ptr<Stream> inner, const DeviceWindow& window);
  // All work has been synced.
  ~DelayedStream() override;

  void Copy(std::byte* dst, const std::byte* src, size_t bytes) override;
  std::unique_ptr<StreamRecording> Record(const std::function<void()>& work) override;
  void Replay(const StreamRecording& recording) override;
  Status Sync() override;

  void Enqueue(Work work);

 private:
  void Run(const std::stop_token& stop);

  std::unique_ptr<Stream> inner_;
  const DeviceWindow& window_;
  std::deque<Work> pending_;                // the user's thread's
  std::vector<Work>* recording_ = nullptr;  // likewise

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Work> running_;  // guarded by mutex_, as synced_ and status_ are
  bool synced_ = true;
  Status status_;
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace thermocline
