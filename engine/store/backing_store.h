#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/store/file_io.h"
#include "engine/store/page_directory.h"
#include "engine/store/page_index.h"
#include "engine/store/page_record.h"
#include "engine/store/store_usage.h"
#include "kernels/base/status.h"

namespace thermocline {

// Keeps pages of conversations outside the arena, by content hash: in memory, and in a directory
// when it has one, where they outlive the process. Whatever is lost or damaged is a page that is
// not found, never wrong bytes. Thread-safe.
//
// Put leaves a page in memory and a thread of the store's own writes it; from the first moment on
// it is found and read. Once written it may leave memory, least recently used first, when room is
// needed. When all of memory waits to be written, Put waits for the writer. When the disk is at its
// cap, pages are evicted: least recently used first, but a page that was got since it was last
// considered is passed over once and counts as just used. Without a directory memory is treated the
// same way. Pinned pages are never evicted. Recency outlives a restart (it is the file's time),
// having been got does not.
//
// A disk that is full or fails costs what it was to keep: the page stays in memory, where it may be
// evicted like any other, and each later page is tried anew. A copy that was on disk before is
// there until a better one has taken its place.
class BackingStore {
 public:
  struct Config {
    std::string directory;  // empty: memory only
    uint64_t memory_bytes =
        0;  // of pages in memory; the index, and the page being written, come on top
    uint64_t disk_bytes = 0;  // of files in the directory; unused without one
    ContentHash identity;     // see EncodePage
    PageLimits limits;
    uint64_t fresh_key = 0;  // random: hash_key() where the directory has none yet
    // Pinned before any page is removed for room: those of saved sessions, each as often as it is
    // named.
    std::vector<ContentHash> pinned;
    // So are all that are there: a session could not be read, and nobody knows what it needs.
    bool pins_found = false;
    // Told, in Create alone, what is about to be removed for room, and what has no room. May be
    // empty.
    std::function<void(const std::string&)> notice;
  };
  // Makes the directory, takes its lock for as long as the store lives, removes what a crash left
  // half written and finds all pages of this identity. Of other identities the pages that their
  // sessions need stay, and of the rest whole identities, newest first, up to half of disk_bytes;
  // all that is taken off this one's.
  // kFailedPrecondition: another process has the directory. kInvalidArgument: there is a directory
  // but no room for one page in memory and two on disk. `io` must outlive the store.
  static Result<std::unique_ptr<BackingStore>> Create(Config config, FileIo& io);
  BackingStore(const BackingStore&) = delete;
  BackingStore& operator=(const BackingStore&) = delete;
  // Ends without writing what waits to be written: Flush first.
  ~BackingStore();

  struct Info {
    Tier tier = Tier::kHot;
    Tier loss = Tier::kHot;
  };
  // Does no I/O and does not count as use.
  std::optional<Info> Find(const ContentHash& hash) const;

  // A better copy (of less loss, then of a lower tier) replaces a worse one; any other is
  // ignored, and that is fine. May wait for the writer. kResourceExhausted: no room in memory, for
  // all there is pinned or the page is too large; a page that was there stays. kInvalidArgument:
  // not within the limits.
  Status Put(const ContentHash& hash, StoredPage page);

  // The page as it was put. Counts as use. May read a file. kNotFound; kDataLoss once when the copy
  // turns out damaged, or the device fails to read it: it is not found any more, and stays on disk
  // in the latter case. kUnavailable when it cannot be read now.
  Result<StoredPage> Get(const ContentHash& hash);
  // As Get, but nothing is used: that Find knows the page only if it can be got.
  Status Verify(const ContentHash& hash);

  // Nobody finds the page any more. Pins stay.
  void Erase(const ContentHash& hash);

  // Pins nest: as many `false` as `true` before, no more. A hash may be pinned before its page is
  // there.
  void SetPinned(const ContentHash& hash, bool pinned);

  // Until all that was put before is on disk, with pages whose write failed tried once more.
  // kUnavailable: some are not. Fine without a directory.
  Status Flush();
  // Until the page is on disk; in memory where there is no directory. kResourceExhausted: there is
  // no room for it, or it is not there. kUnavailable: the disk fails.
  Status Flush(const ContentHash& hash);

  StoreUsage usage() const;
  // Files and folders that could not be read at start.
  size_t num_unreadable() const {
    return directory_.has_value() ? directory_->found().num_unreadable : 0;
  }

  // For PrefixCache: names mean the same in all processes that use this directory.
  uint64_t hash_key() const { return hash_key_; }

 private:
  BackingStore(Config config, std::optional<PageDirectory> directory);

  // Until the writer has done one more job; false when it has none.
  bool WaitForWriter(std::unique_lock<std::mutex>& lock);

  // On the writer's thread. They hold the lock but for their I/O.
  void WriteLoop(const std::stop_token& stop);
  Result<StoredPage> Read(const ContentHash& hash, bool use);
  void MakeRoomAtStart();
  void Settle(std::unique_lock<std::mutex>& lock, const ContentHash& hash);
  void WritePage(std::unique_lock<std::mutex>& lock, const ContentHash& hash);
  std::optional<PageIndex::File> WhatIsLeft(const ContentHash& hash, bool replaces);
  Status MakeDiskRoom(std::unique_lock<std::mutex>& lock, const ContentHash& hash, uint64_t bytes);
  Status RemoveFile(std::unique_lock<std::mutex>& lock, const ContentHash& hash);
  void NoteError(const Status& error);

  const Config config_;
  std::optional<PageDirectory> directory_;  // nothing: memory only
  const uint64_t hash_key_;
  uint64_t max_disk_bytes_ = 0;           // set before the writer starts
  mutable std::mutex mutex_;              // guards all below but writer_
  std::condition_variable_any work_;      // for the writer: something is queued
  std::condition_variable_any progress_;  // from the writer: a job ended
  PageIndex index_;
  StoreUsage counts_;  // those that index_ does not know
  bool settling_ = false;
  uint64_t num_jobs_done_ = 0;
  std::jthread writer_;  // last: it uses all above
};

}  // namespace thermocline
