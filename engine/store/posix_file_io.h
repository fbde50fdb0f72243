#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/store/file_io.h"

namespace thermocline {

// The file system of this machine.
class PosixFileIo : public FileIo {
 public:
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
};

}  // namespace thermocline
