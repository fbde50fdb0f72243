#include "engine/store/session_store.h"

#include <algorithm>
#include <utility>

#include "engine/store/record.h"
#include "engine/store/store_layout.h"

namespace thermocline {
namespace {

Status NoSession(std::string_view id) { return NotFound("there is no session {}", id); }

}  // namespace

SavedSessionInfo InfoOf(const SavedSession& session) {
  return {.tenant = session.tenant,
          .id = session.id,
          .num_tokens = session.tokens.size(),
          .pages = session.pages,
          .saved_at_unix = session.saved_at_unix,
          .bytes = session.bytes};
}

Result<std::unique_ptr<SessionStore>> SessionStore::Create(const std::string& directory,
                                                           const ContentHash& identity, FileIo& io,
                                                           const SessionLimits& limits) {
  const std::string root = directory + "/" + std::string(kSessionsFolder);
  const std::string folder = directory.empty() ? "" : root + "/" + HexDigits(identity);
  std::unique_ptr<SessionStore> store(new SessionStore(folder, identity, io, limits));
  if (directory.empty()) {
    return store;
  }
  RETURN_IF_ERROR(io.MakeDirectories(folder));
  RETURN_IF_ERROR(io.SyncDirectory(root));
  RETURN_IF_ERROR(io.SyncDirectory(directory));
  Result<std::unique_ptr<FileLock>> lock = io.Lock(root + "/" + std::string(kLockFile));
  if (!lock.ok()) {
    return lock.status();
  }
  store->lock_ = std::move(*lock);
  RETURN_IF_ERROR(store->Scan());
  return store;
}

Status SessionStore::Scan() {
  const Result<std::vector<FileIo::Entry>> entries = io_.List(folder_);
  if (!entries.ok()) {
    return entries.status();
  }
  for (const FileIo::Entry& entry : *entries) {
    const std::string path = folder_ + "/" + entry.name;
    if (IsTemporaryFile(entry)) {
      (void)io_.Remove(path);
    }
    if (!IsSessionFile(entry)) {
      continue;
    }
    const Result<SavedSession> session = ReadSession(path);
    if (session.ok() && PathOf(session->tenant, session->id) == path) {
      sessions_[{session->tenant, session->id}] = {.info = InfoOf(*session)};
      continue;
    }
    ++num_unreadable_;
    if (!session.ok() && session.status().code() != StatusCode::kDataLoss) {
      unread_.insert(path);
    }
  }
  return {};
}

// Reads one session. kDataLoss: it is damaged. A file that the device cannot read may be whole.
Result<SavedSession> SessionStore::ReadSession(const std::string& path) const {
  const Result<std::vector<std::byte>> record =
      io_.ReadFile(path, MaxSessionRecordBytes(kAnySession));
  if (!record.ok()) {
    return record.status().code() == StatusCode::kNotFound
               ? record.status()
               : Status(StatusCode::kUnavailable, record.status().message());
  }
  return DecodeSession(identity_, *record, kAnySession);
}

Status SessionStore::Save(const SavedSession& session) {
  RETURN_IF_ERROR(CheckSession(session, limits_));
  const std::scoped_lock lock(mutex_);
  const Key key{session.tenant, session.id};
  RETURN_IF_ERROR(CheckRoom(key));
  Kept kept{.info = InfoOf(session)};
  if (folder_.empty()) {
    kept.tokens = session.tokens;
    sessions_[key] = std::move(kept);
    return {};
  }
  const std::string path = PathOf(session.tenant, session.id);
  if (unread_.contains(path)) {
    return FailedPrecondition(
        "there is a session {} that cannot be read and may be whole: delete it first", session.id);
  }
  Status status = WriteWholeFile(io_, path, EncodeSession(identity_, session));
  if (status.code() == StatusCode::kNotFound) {  // somebody removed the folder
    status = io_.MakeDirectories(folder_);
    if (status.ok()) {
      status = WriteWholeFile(io_, path, EncodeSession(identity_, session));
    }
  }
  if (!status.ok()) {
    // If the device failed late, the new file has been renamed already.
    const Result<SavedSession> there = ReadSession(path);
    if (there.ok() && *there == session) {
      sessions_[key] = std::move(kept);
    }
    return status.code() == StatusCode::kNotFound
               ? Status(StatusCode::kUnavailable, status.message())  // a folder is meant
               : status;
  }
  sessions_[key] = std::move(kept);
  return {};
}

Status SessionStore::CheckRoom(const Key& key) const {
  if (sessions_.contains(key)) {
    return {};
  }
  if (sessions_.size() >= limits_.max_sessions) {
    return FailedPrecondition("{} sessions are saved, as many as may be: delete one first",
                              sessions_.size());
  }
  const auto num_own = std::count_if(sessions_.begin(), sessions_.end(), [&key](const auto& kept) {
    return kept.first.first == key.first;
  });
  if (static_cast<size_t>(num_own) >= limits_.max_sessions_per_tenant) {
    return FailedPrecondition("{} sessions are saved, as many as may be: delete one first",
                              num_own);
  }
  return {};
}

Result<SavedSession> SessionStore::Load(std::string_view tenant, std::string_view id) {
  const std::scoped_lock lock(mutex_);
  const auto kept = sessions_.find(Key(tenant, id));
  if (kept == sessions_.end()) {
    return NoSession(id);
  }
  if (folder_.empty()) {
    const SavedSessionInfo& info = kept->second.info;
    return SavedSession{.tenant = info.tenant,
                        .id = info.id,
                        .tokens = kept->second.tokens,
                        .pages = info.pages,
                        .saved_at_unix = info.saved_at_unix,
                        .bytes = info.bytes};
  }
  const std::string path = PathOf(tenant, id);
  Result<SavedSession> session = ReadSession(path);
  if (session.ok() && session->tenant == tenant && session->id == id) {
    return session;
  }
  const StatusCode code = session.status().code();
  if (code == StatusCode::kNotFound) {
    sessions_.erase(kept);
    return NotFound("session {} is gone: its file was removed", id);
  }
  if (!session.ok() && code != StatusCode::kDataLoss) {
    return session;
  }
  sessions_.erase(kept);
  (void)io_.Remove(path);  // else it is found unreadable at the next start
  return DataLoss("session {} is damaged", id);
}

Status SessionStore::Remove(std::string_view tenant, std::string_view id) {
  const std::scoped_lock lock(mutex_);
  const auto kept = sessions_.find(Key(tenant, id));
  const std::string path = folder_.empty() ? "" : PathOf(tenant, id);
  if (kept == sessions_.end() && !unread_.contains(path)) {
    return NoSession(id);
  }
  if (!folder_.empty()) {
    RETURN_IF_ERROR(io_.Remove(path));
    if (Status synced = io_.SyncDirectory(folder_);
        !synced.ok() && synced.code() != StatusCode::kNotFound) {
      return synced;
    }
  }
  unread_.erase(path);
  if (kept != sessions_.end()) {
    sessions_.erase(kept);
  }
  return {};
}

std::optional<SavedSessionInfo> SessionStore::Find(std::string_view tenant,
                                                   std::string_view id) const {
  const std::scoped_lock lock(mutex_);
  const auto kept = sessions_.find(Key(tenant, id));
  return kept == sessions_.end() ? std::nullopt : std::optional(kept->second.info);
}

std::vector<SavedSessionInfo> SessionStore::List(std::string_view tenant) const {
  std::vector<SavedSessionInfo> found;
  {
    const std::scoped_lock lock(mutex_);
    for (auto kept = sessions_.lower_bound(Key(tenant, ""));
         kept != sessions_.end() && kept->first.first == tenant; ++kept) {
      found.push_back(kept->second.info);
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const SavedSessionInfo& a, const SavedSessionInfo& b) {
                     return a.saved_at_unix > b.saved_at_unix;
                   });
  return found;
}

std::vector<SavedSessionInfo> SessionStore::all() const {
  const std::scoped_lock lock(mutex_);
  std::vector<SavedSessionInfo> found;
  found.reserve(sessions_.size());
  for (const auto& [key, kept] : sessions_) {
    found.push_back(kept.info);
  }
  return found;
}

std::string SessionStore::PathOf(std::string_view tenant, std::string_view id) const {
  return folder_ + "/" + SessionFileName(tenant, id);
}

}  // namespace thermocline
