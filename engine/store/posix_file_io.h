#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/store/file_io.h"

namespace thermocline {

// The file system of this machine. No link is followed anywhere in a path: ResolveDirectory first
// what somebody gave. Nothing but a regular file is opened, so that nobody waits for a pipe.
class PosixFileIo : public FileIo {
 public:
  // Modes of new files and directories; the process's mask applies too.
  struct Modes {
    unsigned file = 0600;       // they hold conversations
    unsigned directory = 0700;  // they show the conversations' lengths
  };
  PosixFileIo() = default;
  explicit PosixFileIo(const Modes& modes) : modes_(modes) {}

  Status WriteNewFile(const std::string& path, std::span<const std::byte> bytes) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status SyncDirectory(const std::string& path) override;
  Result<std::vector<std::byte>> ReadFile(const std::string& path, uint64_t max_bytes) override;
  Result<std::vector<std::byte>> ReadHead(const std::string& path, size_t num_bytes) override;
  Result<std::vector<Entry>> List(const std::string& directory) override;
  Status Touch(const std::string& path) override;
  Status Remove(const std::string& path) override;
  Status MakeDirectories(const std::string& path) override;
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override;

 private:
  Modes modes_;
};

// The path of the same directory without a link in it. The directory need not exist. kUnavailable
// when the path cannot be followed.
Result<std::string> ResolveDirectory(const std::string& path);

}  // namespace thermocline
