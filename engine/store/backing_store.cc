#include "engine/store/backing_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace thermocline {
namespace {

bool IsBetter(const StoredPage& page, const PageIndex::Page& than) {
  return page.loss != than.loss ? page.loss < than.loss : page.tier < than.tier;
}

}  // namespace

Result<std::unique_ptr<BackingStore>> BackingStore::Create(Config config, FileIo& io) {
  std::optional<PageDirectory> directory;
  if (!config.directory.empty()) {
    const uint64_t page_bytes = MaxPageRecordBytes(config.limits);
    if (config.memory_bytes < page_bytes || config.disk_bytes < 2 * page_bytes) {
      return InvalidArgument(
          "a page is {} bytes: the page store needs memory for one and disk for two, not {} and {}",
          page_bytes, config.memory_bytes, config.disk_bytes);
    }
    Result<PageDirectory> opened =
        PageDirectory::Open(config.directory, config.identity, config.limits, config.fresh_key, io);
    if (!opened.ok()) {
      return opened.status();
    }
    directory = std::move(*opened);
  }
  return std::unique_ptr<BackingStore>(new BackingStore(std::move(config), std::move(directory)));
}

BackingStore::BackingStore(Config config, std::optional<PageDirectory> directory)
    : config_(std::move(config)),
      directory_(std::move(directory)),
      hash_key_(directory_.has_value() ? directory_->hash_key() : config_.fresh_key),
      index_(directory_.has_value()) {
  for (const ContentHash& page : config_.pinned) {
    index_.SetPinned(page, true);
  }
  if (!directory_.has_value()) {
    return;
  }
  for (const PageDirectory::File& found : directory_->found().files) {
    index_.AddFile(found.file);
    if (config_.pins_found) {
      index_.SetPinned(found.file.head.hash, true);
    }
  }
  counts_.num_damaged = directory_->found().num_damaged;
  MakeRoomAtStart();
  writer_ = std::jthread([this](const std::stop_token& stop) { WriteLoop(stop); });
}

// The files may be of an earlier run with a higher cap, and of other models.
void BackingStore::MakeRoomAtStart() {
  const auto notice = [this](const std::string& message) {
    if (config_.notice) {
      config_.notice(message);
    }
  };
  const uint64_t other_bytes = directory_->BoundOthers(config_.disk_bytes / 2, notice);
  std::unique_lock lock(mutex_);
  max_disk_bytes_ = config_.disk_bytes - std::min(config_.disk_bytes, other_bytes);
  if (index_.disk_bytes() <= max_disk_bytes_) {
    return;
  }
  if (index_.num_evictable() > 0) {
    notice(fmt::format(
        "the page store makes room: {} bytes are on disk and {} may be; the pages used longest "
        "ago that no saved session needs are removed",
        index_.disk_bytes(), max_disk_bytes_));
  }
  if (index_.pinned_disk_bytes() > max_disk_bytes_) {
    notice(fmt::format(
        "the pages of saved sessions take {} bytes on disk and {} may be used: they stay, and "
        "nothing else is written until some are deleted or --kv-store-disk-bytes is raised",
        index_.pinned_disk_bytes(), max_disk_bytes_));
  }
  if (const Status status = MakeDiskRoom(lock, ContentHash{}, 0);
      !status.ok() && index_.num_evictable() > 0) {
    NoteError(status);
  }
}

BackingStore::~BackingStore() = default;

std::optional<BackingStore::Info> BackingStore::Find(const ContentHash& hash) const {
  const std::scoped_lock lock(mutex_);
  const PageIndex::Page* page = index_.Find(hash);
  if (page == nullptr || page->unreadable) {
    return std::nullopt;
  }
  return Info{.tier = page->tier, .loss = page->loss};
}

Status BackingStore::Put(const ContentHash& hash, StoredPage page) {
  RETURN_IF_ERROR(CheckPage(page, config_.limits));
  const uint64_t bytes = PageRecordBytes(page);
  if (bytes > config_.memory_bytes) {
    return ResourceExhausted("a page of {} bytes in a page store of {}", bytes,
                             config_.memory_bytes);
  }
  // Shared with whoever reads or writes it while a better copy takes its place.
  auto content = std::make_shared<const StoredPage>(std::move(page));
  std::unique_lock lock(mutex_);
  for (;;) {
    const PageIndex::Page* there = index_.Find(hash);
    if (there != nullptr && !there->unreadable && !IsBetter(*content, *there)) {
      index_.Use(hash, /*hit=*/false);
      return {};
    }
    const uint64_t replaced = there != nullptr && there->content != nullptr ? there->bytes : 0;
    if (index_.memory_bytes() - replaced + bytes <= config_.memory_bytes) {
      break;
    }
    const PageIndex::Freed freed = index_.FreeMemory();
    counts_.num_evictions += freed == PageIndex::Freed::kPage ? 1 : 0;
    if (freed == PageIndex::Freed::kNothing && !WaitForWriter(lock)) {
      return ResourceExhausted("all {} bytes of the page store are pinned", index_.memory_bytes());
    }
  }
  index_.Add(hash, std::move(content));
  work_.notify_one();
  return {};
}

Result<StoredPage> BackingStore::Get(const ContentHash& hash) { return Read(hash, /*use=*/true); }

Status BackingStore::Verify(const ContentHash& hash) {
  {
    const std::scoped_lock lock(mutex_);
    const PageIndex::Page* page = index_.Find(hash);
    if (page != nullptr && !page->on_disk) {
      return {};  // in memory
    }
  }
  return Read(hash, /*use=*/false).status();
}

Result<StoredPage> BackingStore::Read(const ContentHash& hash, bool use) {
  std::unique_lock lock(mutex_);
  for (;;) {
    const PageIndex::Page* page = index_.Find(hash);
    if (page == nullptr || page->unreadable) {
      counts_.num_misses += use ? 1 : 0;
      return NotFound("the page is not in the store");
    }
    const uint64_t generation = page->generation;
    const bool on_disk = page->on_disk;
    // What is to be verified is what outlives memory.
    const std::shared_ptr<const StoredPage> content =
        use || !on_disk ? page->content : std::shared_ptr<const StoredPage>();
    lock.unlock();
    Result<StoredPage> read = content != nullptr ? *content : directory_->Read(hash);
    if (read.ok() && on_disk && use) {
      directory_->Touch(hash);
    }
    lock.lock();
    if (read.ok()) {
      counts_.num_hits += use ? 1 : 0;
      if (use) {
        index_.Use(hash, /*hit=*/true);
      }
      return read;
    }
    page = index_.Find(hash);
    if (page == nullptr || page->generation != generation) {
      continue;  // evicted or replaced while it was read
    }
    counts_.last_error = read.status().message();
    if (read.status().code() == StatusCode::kUnavailable) {
      return read;
    }
    ++counts_.num_damaged;
    if (page->content != nullptr) {
      index_.Rewrite(hash);  // memory still has it
      work_.notify_one();
      return *page->content;
    }
    if (read.status().code() == StatusCode::kInternal) {
      index_.SetUnreadable(hash);
    } else {
      index_.Erase(hash);
      work_.notify_one();
    }
    return DataLoss("a stored page is lost: {}", read.status().message());
  }
}

void BackingStore::Erase(const ContentHash& hash) {
  const std::scoped_lock lock(mutex_);
  index_.Erase(hash);
  work_.notify_one();
}

void BackingStore::SetPinned(const ContentHash& hash, bool pinned) {
  const std::scoped_lock lock(mutex_);
  index_.SetPinned(hash, pinned);
}

Status BackingStore::Flush() {
  if (!directory_.has_value()) {
    return {};
  }
  std::unique_lock lock(mutex_);
  index_.RequeueUnwritten();
  work_.notify_one();
  const uint64_t num_jobs = index_.num_ever_queued();
  progress_.wait(lock, [&] { return num_jobs_done_ >= num_jobs; });
  if (index_.HasUnwritten()) {
    return Unavailable("not all pages are on disk: {}", counts_.last_error);
  }
  return {};
}

Status BackingStore::Flush(const ContentHash& hash) {
  std::unique_lock lock(mutex_);
  const auto is_there = [&] {
    const PageIndex::Page* page = index_.Find(hash);
    return page != nullptr && !page->unreadable && (page->on_disk || !directory_.has_value());
  };
  if (!is_there() && directory_.has_value()) {
    index_.RequeueUnwritten();
    work_.notify_one();
    const uint64_t num_jobs = index_.num_ever_queued();
    progress_.wait(lock, [&] { return num_jobs_done_ >= num_jobs; });
  }
  if (is_there()) {
    return {};
  }
  if (counts_.disk_failing) {
    return Unavailable("a page is not on disk: {}", counts_.last_error);
  }
  return ResourceExhausted("the page store has no room for a page");
}

StoreUsage BackingStore::usage() const {
  const std::scoped_lock lock(mutex_);
  StoreUsage usage = counts_;
  usage.num_pages = index_.num_pages();
  usage.num_memory_pages = index_.num_memory_pages();
  usage.memory_bytes = index_.memory_bytes();
  usage.num_disk_pages = index_.num_files();
  usage.disk_bytes = index_.disk_bytes();
  usage.num_pending_writes = index_.num_queued() + (settling_ ? 1 : 0);
  return usage;
}

bool BackingStore::WaitForWriter(std::unique_lock<std::mutex>& lock) {
  if (index_.num_queued() == 0 && !settling_) {
    return false;
  }
  progress_.wait(lock, [this, num_before = num_jobs_done_] { return num_jobs_done_ > num_before; });
  return true;
}

void BackingStore::WriteLoop(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (work_.wait(lock, stop, [this] { return index_.num_queued() > 0; })) {
    if (stop.stop_requested()) {
      return;
    }
    settling_ = true;
    Settle(lock, *index_.TakeQueued());
    settling_ = false;
    ++num_jobs_done_;
    progress_.notify_all();
  }
}

void BackingStore::Settle(std::unique_lock<std::mutex>& lock, const ContentHash& hash) {
  const PageIndex::Page* page = index_.Find(hash);
  if (page != nullptr && page->pending) {
    WritePage(lock, hash);
  } else if (page == nullptr && index_.file_bytes(hash) > 0) {
    if (const Status status = RemoveFile(lock, hash); !status.ok()) {
      NoteError(status);
    }
  }
}

void BackingStore::WritePage(std::unique_lock<std::mutex>& lock, const ContentHash& hash) {
  const PageIndex::Page* page = index_.Find(hash);
  const uint64_t generation = page->generation;
  const PageIndex::File file{.head = {.hash = hash, .tier = page->tier, .loss = page->loss},
                             .bytes = page->bytes};
  const std::shared_ptr<const StoredPage> content = page->content;
  Status status = MakeDiskRoom(lock, hash, file.bytes);
  if (status.ok()) {
    const bool replaces = index_.file_bytes(hash) > 0;
    lock.unlock();
    status = directory_->Write(hash, *content);
    const std::optional<PageIndex::File> left = status.ok() ? file : WhatIsLeft(hash, replaces);
    lock.lock();
    index_.NoteFile(hash, left);
    counts_.disk_failing = !status.ok();
  }
  if (!status.ok()) {
    NoteError(status);
  }
  index_.NoteWritten(hash, generation, status.ok());
}

// After a write that failed. A new page that may not last is removed, and counts as unwritten; what
// was there before stays.
std::optional<PageIndex::File> BackingStore::WhatIsLeft(const ContentHash& hash, bool replaces) {
  if (!replaces && directory_->Remove(hash).ok()) {
    return std::nullopt;
  }
  const Result<PageIndex::File> left = directory_->Look(hash);
  if (left.ok()) {
    return *left;
  }
  if (left.status().code() == StatusCode::kNotFound) {
    return std::nullopt;
  }
  const std::scoped_lock lock(mutex_);
  return index_.file(hash);  // as far as anybody knows
}

Status BackingStore::MakeDiskRoom(std::unique_lock<std::mutex>& lock, const ContentHash& hash,
                                  uint64_t bytes) {
  // What is at this hash's place now will be replaced.
  while (index_.disk_bytes() - index_.file_bytes(hash) + bytes > max_disk_bytes_) {
    const std::optional<PageIndex::File> victim = index_.EvictFromDisk();
    if (!victim.has_value()) {
      return ResourceExhausted("all {} bytes of the page store's disk are pinned",
                               index_.disk_bytes());
    }
    if (Status removed = RemoveFile(lock, victim->head.hash); !removed.ok()) {
      // A disk that takes nothing back may still be read. Unless it was put anew meanwhile.
      if (index_.Find(victim->head.hash) == nullptr) {
        index_.AddFile(*victim);
      }
      return removed;
    }
    ++counts_.num_evictions;
  }
  return {};
}

Status BackingStore::RemoveFile(std::unique_lock<std::mutex>& lock, const ContentHash& hash) {
  lock.unlock();
  Status status = directory_->Remove(hash);
  lock.lock();
  if (status.ok()) {
    index_.NoteFile(hash, std::nullopt);
  }
  return status;
}

void BackingStore::NoteError(const Status& error) {
  ++counts_.num_write_errors;
  counts_.last_error = error.message();
}

}  // namespace thermocline
