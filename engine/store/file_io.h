#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"

namespace thermocline {

// A file that is locked until this is destroyed.
class FileLock {
 public:
  explicit FileLock(int file) : file_(file) {}
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int file_;
};

// What the stores ask of a file system, one call each, so that tests can fail or stop any of them.
// Thread-safe. Errors: kNotFound; kResourceExhausted when the disk, a quota or a limit on files is
// full; kDataLoss when the device could not read or write (EIO) or a file is not what it must be;
// else kUnavailable. A message names the path and the system's reason: it is for the log, never for
// who asks over the network.
class FileIo {
 public:
  struct Entry {
    std::string name;
    bool is_directory = false;
    uint64_t bytes = 0;
    int64_t modified_ns = 0;  // since 1970
  };

  FileIo() = default;
  FileIo(const FileIo&) = delete;
  FileIo& operator=(const FileIo&) = delete;
  virtual ~FileIo() = default;

  // A new file, readable by its owner alone, on the device when this returns. kAlreadyExists: there
  // is something at `path`, whatever it is; it stays. After any other error any part of the file
  // may be there.
  virtual Status WriteNewFile(const std::string& path, std::span<const std::byte> bytes) = 0;
  // Renames in one step: at any time `to` is the old file or the new one.
  virtual Status Rename(const std::string& from, const std::string& to) = 0;
  // Syncs a directory: the names in it are on the device when this returns.
  virtual Status SyncDirectory(const std::string& path) = 0;
  // Reads a whole file. kDataLoss: it is longer than `max_bytes`, or no regular file.
  virtual Result<std::vector<std::byte>> ReadFile(const std::string& path, uint64_t max_bytes) = 0;
  // Reads the first `num_bytes`, or as many as there are.
  virtual Result<std::vector<std::byte>> ReadHead(const std::string& path, size_t num_bytes) = 0;
  // Lists regular files and directories, in no order. Links and other things are left out.
  virtual Result<std::vector<Entry>> List(const std::string& directory) = 0;
  // Sets the file's modification time to now.
  virtual Status Touch(const std::string& path) = 0;
  // Removes a file or an empty directory. Fine when there is none.
  virtual Status Remove(const std::string& path) = 0;
  // Makes a directory and its parents, for their owner alone. Fine when it is there.
  virtual Status MakeDirectories(const std::string& path) = 0;
  // Locks a file. kFailedPrecondition: another process has it, or another lock of this process.
  virtual Result<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
};

// The ending of the name of a file that is being written. One that was left behind may be removed.
inline constexpr std::string_view kTemporarySuffix = ".tmp";

// Writes `path` whole or not at all. It is on the device when this returns. The bytes go to a new
// file beside it, which is then renamed. After an error `path` is the old file, unchanged, or the
// new one, which may not outlive a crash.
Status WriteWholeFile(FileIo& io, const std::string& path, std::span<const std::byte> bytes);

}  // namespace thermocline
