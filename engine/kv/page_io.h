#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "engine/kv/page_names.h"
#include "engine/kv/page_recoder.h"
#include "engine/store/backing_store.h"
#include "kernels/device.h"
#include "kernels/page_format.h"
#include "scheduler/page_transfer.h"

namespace thermocline {

// Copies pages between the arena and the store outside it, on two threads and streams of its own,
// so that no load waits behind a save: steps run meanwhile. It touches no page state, as Migrator
// does not: who started a transfer ends it in the pool. Full pages alone are saved, and do not
// change; nobody reads where a load writes. Thread-safe.
class PageIo : public PageFinder {
 public:
  // `page_bytes`: what a page takes in the arena, by tier. The arena is in the device's memory; all
  // outlive it.
  PageIo(BackingStore& store, Device& device, std::byte* arena,
         std::array<uint32_t, kNumTiers> page_bytes, const PageNames& names = {});
  // Waits for the copies in work; those not begun are dropped, jobs are run.
  ~PageIo() override { Stop(); }
  // The same, before its end; nothing is begun after it.
  void Stop();
  PageIo(const PageIo&) = delete;
  PageIo& operator=(const PageIo&) = delete;

  std::optional<Info> Find(const ContentHash& hash) const override;
  void SetPinned(const ContentHash& hash, bool pinned) override;

  void Start(std::vector<PageTransfer> transfers);
  // Runs `job` on the thread of this kind, after what was started on it before; once, whatever
  // happens, unless Stop was called before.
  void Post(PageTransfer::Kind kind, std::function<void()> job);
  // Waits until nothing is queued or in work, and runs `change` while it stays so. No transfer may
  // be under way.
  void WhileIdle(const std::function<void()>& change);
  // Other formats; in WhileIdle, or before anything is started. `recoder`: of pages that the names
  // find in older ones; null if they find none.
  void SetFormats(const std::array<uint32_t, kNumTiers>& page_bytes, const PageNames& names,
                  std::unique_ptr<PageRecoder> recoder) {
    page_bytes_ = page_bytes;
    names_ = names;
    recoder_ = std::move(recoder);
  }
  const PageNames& names() const { return names_; }
  // Those that have ended since the last call, loads in the order of Start. `wait`: at least one,
  // if any is under way.
  std::vector<FinishedTransfer> TakeFinished(bool wait);
  bool has_finished() const { return num_finished_ > 0; }  // takes no lock
  // Called on the copying threads whenever a transfer has ended; it may not call back. Empty:
  // nobody is told.
  void set_on_end(std::function<void()> on_end);
  BackingStore& store() { return store_; }

 private:
  using Job = std::variant<PageTransfer, std::function<void()>>;
  struct Lane {
    std::unique_ptr<Stream> stream;  // the lane's thread's
    std::deque<Job> queue;
    std::condition_variable_any wake;
    bool in_work = false;
  };
  Lane& lane(PageTransfer::Kind kind) { return lanes_[kind == PageTransfer::Kind::kSave ? 0 : 1]; }
  void Run(PageTransfer::Kind kind, const std::stop_token& stop);
  FinishedTransfer Copy(PageTransfer transfer);
  bool Save(const PageTransfer& transfer);
  bool Load(PageTransfer& transfer);
  uint32_t BytesOf(Tier tier) const { return page_bytes_[static_cast<size_t>(tier)]; }

  BackingStore& store_;
  std::byte* arena_;
  // Changed by WhileIdle alone, which no copy sees:
  std::array<uint32_t, kNumTiers> page_bytes_;
  PageNames names_;
  std::unique_ptr<PageRecoder> recoder_;  // the loading thread's

  std::mutex mutex_;
  // Guarded by mutex_, down to finished_, but for the streams:
  std::array<Lane, 2> lanes_;  // of saves; of loads and wakes
  size_t num_unfinished_ = 0;  // queued or being copied
  std::vector<FinishedTransfer> finished_;
  std::function<void()> on_end_;
  std::atomic<size_t> num_finished_ = 0;  // finished_.size()
  std::condition_variable ended_;

  std::jthread saver_;  // last: they use all of the above
  std::jthread loader_;
};

}  // namespace thermocline
