#include "engine/loader/checkpoint.h"

#include <filesystem>
#include <system_error>

#include "engine/loader/file_kind.h"
#include "engine/loader/gguf.h"

namespace thermocline {

Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path) {
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    return IsDirectory(path);
  }
  Result<std::unique_ptr<GgufFile>> file = GgufFile::Open(path);
  if (!file.ok()) {
    return file.status();
  }
  return std::unique_ptr<Checkpoint>(*std::move(file));
}

}  // namespace thermocline
