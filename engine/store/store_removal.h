#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "engine/store/file_io.h"
#include "engine/store/store_survey.h"
#include "kernels/base/status.h"

namespace thermocline {

// Removes what a store has in its directory, which is locked for as long as this lives: no server
// has it. What else somebody put there stays, and the folders that it is in.
class StoreRemoval {
 public:
  // `directory` is one that SurveyStore found to be a store. kFailedPrecondition: a server has it.
  static Result<StoreRemoval> Open(FileIo& io, const std::string& directory);

  // Removes a session's name and tokens. Its pages stay, as when a server deletes it: other
  // conversations may begin alike.
  Status RemoveSession(const StoreSurvey::Session& session);
  // Removes the sessions of this name, of any model. It is for files that SurveyStore could not
  // read and so lists nowhere. kNotFound: there is none.
  Status RemoveUnreadableSession(std::string_view tenant, std::string_view id);
  // Removes all pages and sessions, readable or not.
  Status RemoveIdentity(const ContentHash& identity);

  uint64_t num_files_removed() const { return num_files_removed_; }

 private:
  StoreRemoval(FileIo& io, std::string directory) : io_(&io), directory_(std::move(directory)) {}
  Status RemoveFiles(const std::string& parent, const std::string& folder,
                     bool (*is_ours)(const FileIo::Entry&));

  FileIo* io_;  // never null
  std::string directory_;
  std::unique_ptr<FileLock> pages_lock_;
  std::unique_ptr<FileLock> sessions_lock_;  // null: there are no sessions, or elsewhere
  uint64_t num_files_removed_ = 0;
};

}  // namespace thermocline
