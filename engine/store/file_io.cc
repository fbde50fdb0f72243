#include "engine/store/file_io.h"

#include <fmt/format.h>

#include <filesystem>

namespace thermocline {

namespace {

// How many names are tried. A name is taken if a crash left the file, or somebody put it there.
constexpr int kMaxNames = 64;

}  // namespace

Status WriteWholeFile(FileIo& io, const std::string& path, std::span<const std::byte> bytes) {
  std::string beside = path + std::string(kTemporarySuffix);
  Status status = io.WriteNewFile(beside, bytes);
  for (int i = 1; status.code() == StatusCode::kAlreadyExists && i < kMaxNames; ++i) {
    beside = fmt::format("{}.{}{}", path, i, kTemporarySuffix);
    status = io.WriteNewFile(beside, bytes);
  }
  if (status.code() == StatusCode::kAlreadyExists) {
    return {StatusCode::kUnavailable, status.message()};  // none of it is ours to remove
  }
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
