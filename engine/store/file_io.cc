#include "engine/store/file_io.h"

#include <filesystem>

namespace thermocline {

Status WriteWholeFile(FileIo& io, const std::string& path, std::span<const std::byte> bytes) {
  const std::string beside = path + std::string(kTemporarySuffix);
  Status status = io.WriteNewFile(beside, bytes);
  if (status.ok()) {
    status = io.Rename(beside, path);
  }
  if (!status.ok()) {
    (void)io.Remove(beside);  // else it is removed at the next start
    return status;
  }
  return io.SyncDirectory(std::filesystem::path(path).parent_path().string());
}

}  // namespace thermocline
