#include "engine/loader/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace thermocline {
namespace {

Result<std::span<const std::byte>> Map(int file, const std::string& path) {
  struct stat info {};
  if (fstat(file, &info) != 0) {
    return InvalidArgument("{}: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument("{}: not a regular file", path);
  }
  if (info.st_size == 0) {
    return InvalidArgument("{}: the file is empty", path);
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) {
    return InvalidArgument("{}: cannot be mapped: {}", path, std::strerror(errno));
  }
  return std::span(static_cast<const std::byte*>(data), size);
}

}  // namespace

Result<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: a FIFO would wait for a writer; for regular files it means nothing.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    const int error = errno;
    const StatusCode code = error == ENOENT ? StatusCode::kNotFound : StatusCode::kInvalidArgument;
    return Status(code, fmt::format("{}: {}", path, std::strerror(error)));
  }
  Result<std::span<const std::byte>> bytes = Map(file, path);
  close(file);  // the mapping holds the file
  if (!bytes.ok()) {
    return bytes.status();
  }
  return MappedFile(*bytes);
}

// Pages that the part shares with its neighbours go as well, and come back when they are read.
void MappedFile::Release(std::span<const std::byte> part) const {
  constexpr size_t kPage = 4096;
  const auto first = static_cast<size_t>(part.data() - bytes_.data()) / kPage * kPage;
  const auto last = static_cast<size_t>(part.data() - bytes_.data()) + part.size();
  madvise(const_cast<std::byte*>(bytes_.data()) + first, last - first, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) {
    munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

}  // namespace thermocline
