#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "kernels/base/status.h"

namespace thermocline {

// A regular file mapped read-only. Move-only; unmapped with the object.
// Truncating a file that is served ends the process (SIGBUS). A model file is replaced by renaming
// a new one over it, as package managers do.
class MappedFile {
 public:
  static Result<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

  // Takes a part of bytes() out of this process's memory; reading it again reads the file again.
  void Release(std::span<const std::byte> part) const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;
};

}  // namespace thermocline
