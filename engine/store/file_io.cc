#include "engine/store/file_io.h"

#include <fmt/format.h>

#include <filesystem>

namespace thermocline {

namespace {

// Names to try before giving up: each that is taken was left by a crash, or put there by somebody.
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
