#include "tests/testing/delayed_stream.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

struct RecordedWork : StreamRecording {
  std::vector<DelayedStream::Work> work;
};

size_t HashOf(const std::byte* data, size_t bytes) {
  return std::hash<std::string_view>()(
      std::string_view(static_cast<const char*>(static_cast<const void*>(data)), bytes));
}

}  // namespace

DelayedStream::DelayedStream(std::unique_ptr<Stream> inner, const DeviceWindow& window)
    : inner_(std::move(inner)),
      window_(window),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

DelayedStream::~DelayedStream() { CHECK(pending_.empty()); }

void DelayedStream::Enqueue(Work work) {
  if (recording_ != nullptr) {
    recording_->push_back(std::move(work));
  } else {
    pending_.push_back(std::move(work));
  }
}

void DelayedStream::Copy(std::byte* dst, const std::byte* src, size_t bytes) {
  const bool from_host = !window_.Holds(src);
  const std::byte* source = from_host ? src : window_.Open(src);
  std::byte* target = window_.Holds(dst) ? window_.Open(dst) : dst;
  // Replayed work may find its source changed.
  const bool checked = from_host && recording_ == nullptr;
  const size_t hash = checked ? HashOf(source, bytes) : 0;
  Enqueue([=](Stream& /*inner*/) {
    CHECK(!checked || HashOf(source, bytes) == hash);
    std::memcpy(target, source, bytes);
  });
}

std::unique_ptr<StreamRecording> DelayedStream::Record(const std::function<void()>& work) {
  auto recording = std::make_unique<RecordedWork>();
  recording_ = &recording->work;
  work();
  recording_ = nullptr;
  return recording;
}

void DelayedStream::Replay(const StreamRecording& recording) {
  for (const Work& work : dynamic_cast<const RecordedWork&>(recording).work) {
    Enqueue(work);
  }
}

Status DelayedStream::Sync() {
  CHECK(recording_ == nullptr);
  std::unique_lock lock(mutex_);
  running_ = std::exchange(pending_, {});
  synced_ = false;
  changed_.notify_all();
  changed_.wait(lock, [&] { return synced_; });
  return std::exchange(status_, {});
}

void DelayedStream::Run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !synced_; })) {
    std::deque<Work> work = std::exchange(running_, {});
    lock.unlock();
    for (const Work& piece : work) {
      piece(*inner_);
    }
    Status status = inner_->Sync();
    lock.lock();
    status_ = std::move(status);
    synced_ = true;
    changed_.notify_all();
  }
}

}  // namespace thermocline
