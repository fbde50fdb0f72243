#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/store/file_io.h"
#include "engine/store/session_record.h"
#include "kernels/base/status.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// A saved session without its tokens.
struct SavedSessionInfo {
  std::string tenant;
  std::string id;
  uint64_t num_tokens = 0;
  std::vector<ContentHash> pages;
  int64_t saved_at_unix = 0;
  uint64_t bytes = 0;
};

SavedSessionInfo InfoOf(const SavedSession& session);

// Keeps sessions by tenant and id: in a directory, one file each, or without one in memory. Their
// pages are BackingStore's. Thread-safe; all but Find, List and all do I/O, and then one call at a
// time.
class SessionStore {
 public:
  // Makes `directory`/sessions, which may lie in a BackingStore's directory, takes its lock for as
  // long as the store lives and reads all sessions of this identity, however long they are:
  // `limits` bound what is saved. What it cannot read is left where it is. Empty directory: memory
  // only. kFailedPrecondition: another process has it. `io` must outlive the store.
  static Result<std::unique_ptr<SessionStore>> Create(const std::string& directory,
                                                      const ContentHash& identity, FileIo& io,
                                                      const SessionLimits& limits);
  SessionStore(const SessionStore&) = delete;
  SessionStore& operator=(const SessionStore&) = delete;

  // Saves a session, which is on the device when this returns. It replaces the session of this
  // tenant and id. After an error the old one is there, or the new one if the device failed late:
  // Find tells. kInvalidArgument: it is not within the limits. kFailedPrecondition: the tenant, or
  // the server, has as many sessions as it may, or one of this name could not be read and stays.
  // Else errors of the disk.
  Status Save(const SavedSession& session);
  // Reads a session. kNotFound, also when its file has gone. kDataLoss once when it turns out
  // damaged, which drops it. Else errors of the disk: it may be read another time.
  Result<SavedSession> Load(std::string_view tenant, std::string_view id);
  // Removes a session, also one that could not be read. kNotFound.
  Status Remove(std::string_view tenant, std::string_view id);

  std::optional<SavedSessionInfo> Find(std::string_view tenant, std::string_view id) const;

  // Newest first.
  std::vector<SavedSessionInfo> List(std::string_view tenant) const;
  // The sessions of all tenants, in no order: their pages are pinned at start.
  std::vector<SavedSessionInfo> all() const;
  // Files that were damaged, of a later version or unreadable at start.
  size_t num_unreadable() const { return num_unreadable_; }
  // Those of num_unreadable() that may be whole: nobody knows which pages they need.
  size_t num_unread() const { return unread_.size(); }

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, id
  struct Kept {
    SavedSessionInfo info;
    std::vector<TokenId> tokens;  // without a directory
  };

  SessionStore(std::string folder, const ContentHash& identity, FileIo& io,
               const SessionLimits& limits)
      : folder_(std::move(folder)), identity_(identity), io_(io), limits_(limits) {}
  Status Scan();
  Result<SavedSession> ReadSession(const std::string& path) const;
  Status CheckRoom(const Key& key) const;
  std::string PathOf(std::string_view tenant, std::string_view id) const;

  const std::string folder_;  // where this identity's files are; empty: memory only
  const ContentHash identity_;
  FileIo& io_;
  const SessionLimits limits_;
  std::unique_ptr<FileLock> lock_;
  size_t num_unreadable_ = 0;
  mutable std::mutex mutex_;      // guards all below and, together with it, the files
  std::set<std::string> unread_;  // paths
  std::map<Key, Kept> sessions_;
};

}  // namespace thermocline
