#include "engine/store/store_removal.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/store/record.h"
#include "engine/store/store_layout.h"

namespace thermocline {
namespace {

std::string SessionsPath(const std::string& directory) {
  return directory + "/" + std::string(kSessionsFolder);
}

}  // namespace

Result<StoreRemoval> StoreRemoval::Open(FileIo& io, const std::string& directory) {
  StoreRemoval removal(io, directory);
  Result<std::unique_ptr<FileLock>> lock = io.Lock(directory + "/" + std::string(kLockFile));
  if (!lock.ok()) {
    return lock.status();
  }
  removal.pages_lock_ = std::move(*lock);
  const Result<std::vector<FileIo::Entry>> sessions = ListFolder(io, directory, kSessionsFolder);
  if (!sessions.ok()) {
    return sessions.status();
  }
  if (!sessions->empty()) {
    lock = io.Lock(SessionsPath(directory) + "/" + std::string(kLockFile));
    if (!lock.ok()) {
      return lock.status();
    }
    removal.sessions_lock_ = std::move(*lock);
  }
  return removal;
}

Status StoreRemoval::RemoveSession(const StoreSurvey::Session& session) {
  const std::string folder = SessionsPath(directory_) + "/" + HexDigits(session.identity);
  RETURN_IF_ERROR(io_->Remove(folder + "/" + session.file));
  ++num_files_removed_;
  return io_->SyncDirectory(folder);
}

Status StoreRemoval::RemoveUnreadableSession(std::string_view tenant, std::string_view id) {
  const std::string root = SessionsPath(directory_);
  const Result<std::vector<FileIo::Entry>> folders = ListIfThere(*io_, root);
  if (!folders.ok()) {
    return folders.status();
  }
  const std::string file = SessionFileName(tenant, id);
  const std::string behind = "/" + file;
  const uint64_t num_before = num_files_removed_;
  for (const FileIo::Entry& folder : *folders) {
    if (!IsIdentityFolder(folder)) {
      continue;
    }
    const Result<std::vector<FileIo::Entry>> files = ListFolder(*io_, root, folder.name);
    if (files.ok() && std::any_of(files->begin(), files->end(), [&](const FileIo::Entry& entry) {
          return !entry.is_directory && entry.name == file;
        })) {
      const std::string path = root + "/" + folder.name;
      RETURN_IF_ERROR(io_->Remove(path + behind));
      ++num_files_removed_;
    }
  }
  return num_files_removed_ > num_before ? Status() : NotFound("there is no such session");
}

Status StoreRemoval::RemoveIdentity(const ContentHash& identity) {
  // Sessions are removed first: if this ends in between, no session is left without its pages.
  const std::string digits = HexDigits(identity);
  if (sessions_lock_ != nullptr) {
    RETURN_IF_ERROR(RemoveFiles(SessionsPath(directory_), digits, IsSessionFile));
  }
  const std::string pages = directory_ + "/" + digits;
  const Result<std::vector<FileIo::Entry>> folders = ListFolder(*io_, directory_, digits);
  if (!folders.ok()) {
    return folders.status();
  }
  for (const FileIo::Entry& folder : *folders) {
    if (IsPageFolder(folder)) {
      RETURN_IF_ERROR(RemoveFiles(pages, folder.name, IsPageFile));
    }
  }
  (void)io_->Remove(pages);  // fails when something else is in it
  return io_->SyncDirectory(directory_);
}

Status StoreRemoval::RemoveFiles(const std::string& parent, const std::string& folder,
                                 bool (*is_ours)(const FileIo::Entry&)) {
  const Result<std::vector<FileIo::Entry>> files = ListFolder(*io_, parent, folder);
  if (!files.ok()) {
    return files.status();
  }
  const std::string path = parent + "/" + folder;
  for (const FileIo::Entry& file : *files) {
    if (is_ours(file) || IsTemporaryFile(file)) {
      RETURN_IF_ERROR(io_->Remove(path + "/" + file.name));
      ++num_files_removed_;
    }
  }
  (void)io_->Remove(path);  // fails when something else is in it
  return {};
}

}  // namespace thermocline
