#include "engine/store/posix_file_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

namespace thermocline {
namespace {

constexpr mode_t kFileMode = 0600;       // conversations are in there
constexpr mode_t kDirectoryMode = 0700;  // and their lengths here

StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
      return StatusCode::kNotFound;
    case ENOSPC:
    case EDQUOT:
      return StatusCode::kResourceExhausted;
    case EIO:
      return StatusCode::kDataLoss;
    default:
      return StatusCode::kUnavailable;
  }
}

// Of the call that failed just now.
Status SystemError(std::string_view what, const std::string& path) {
  const int error = errno;
  return {CodeOf(error), fmt::format("cannot {} {}: {}", what, path, std::strerror(error))};
}

class OpenFile {
 public:
  OpenFile(const std::string& path, int flags)
      : file_(open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, kFileMode)) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (is_open()) {
      close(file_);
    }
  }

  bool is_open() const { return file_ >= 0; }
  int get() const { return file_; }
  int Release() { return std::exchange(file_, -1); }

 private:
  int file_;
};

Status WriteAll(int file, const std::string& path, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      return SystemError("write", path);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

// Less only when the file ends before.
Result<std::vector<std::byte>> ReadUpTo(int file, const std::string& path, size_t num_bytes) {
  std::vector<std::byte> bytes(num_bytes);
  size_t size = 0;
  while (size < num_bytes) {
    const ssize_t got = read(file, bytes.data() + size, num_bytes - size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return SystemError("read", path);
    }
    if (got == 0) {
      break;
    }
    size += static_cast<size_t>(got);
  }
  bytes.resize(size);
  return bytes;
}

// At most `max_bytes`; beyond them kDataLoss, or with `cut` no more of the file.
Result<std::vector<std::byte>> ReadBounded(const std::string& path, uint64_t max_bytes, bool cut) {
  // Not to wait for the writer, should somebody have put a pipe there.
  const OpenFile file(path, O_RDONLY | O_NONBLOCK);
  struct stat info {};
  if (!file.is_open() || fstat(file.get(), &info) != 0) {
    return SystemError("open", path);
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || (size > max_bytes && !cut)) {
    return DataLoss("{} is no file of at most {} bytes", path, max_bytes);
  }
  return ReadUpTo(file.get(), path, std::min(size, max_bytes));
}

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

}  // namespace

FileLock::~FileLock() { close(file_); }

Status PosixFileIo::WriteNewFile(const std::string& path, std::span<const std::byte> bytes) {
  const OpenFile file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file.is_open()) {
    return SystemError("create", path);
  }
  RETURN_IF_ERROR(WriteAll(file.get(), path, bytes));
  if (fsync(file.get()) != 0) {
    return SystemError("sync", path);
  }
  return {};
}

Status PosixFileIo::Rename(const std::string& from, const std::string& to) {
  return std::rename(from.c_str(), to.c_str()) == 0 ? Status() : SystemError("rename", from);
}

Status PosixFileIo::SyncDirectory(const std::string& path) {
  const OpenFile directory(path, O_RDONLY | O_DIRECTORY);
  if (!directory.is_open() || fsync(directory.get()) != 0) {
    return SystemError("sync", path);
  }
  return {};
}

Result<std::vector<std::byte>> PosixFileIo::ReadFile(const std::string& path, uint64_t max_bytes) {
  return ReadBounded(path, max_bytes, /*cut=*/false);
}

Result<std::vector<std::byte>> PosixFileIo::ReadHead(const std::string& path, size_t num_bytes) {
  return ReadBounded(path, num_bytes, /*cut=*/true);
}

Result<std::vector<FileIo::Entry>> PosixFileIo::List(const std::string& directory) {
  const std::unique_ptr<DIR, CloseDirectory> open_directory(opendir(directory.c_str()));
  if (open_directory == nullptr) {
    return SystemError("list", directory);
  }
  std::vector<Entry> entries;
  errno = 0;
  while (const dirent* found = readdir(open_directory.get())) {
    struct stat info {};
    const bool there =
        fstatat(dirfd(open_directory.get()), found->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0;
    const std::string_view name = found->d_name;
    if (there && name != "." && name != ".." && (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) {
      entries.push_back({.name = std::string(name),
                         .is_directory = S_ISDIR(info.st_mode),
                         .bytes = static_cast<uint64_t>(info.st_size),
                         .modified_ns = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 +
                                        int64_t{info.st_mtim.tv_nsec}});
    }
    errno = 0;
  }
  if (errno != 0) {
    return SystemError("list", directory);
  }
  return entries;
}

Status PosixFileIo::Touch(const std::string& path) {
  return utimensat(AT_FDCWD, path.c_str(), nullptr, AT_SYMLINK_NOFOLLOW) == 0
             ? Status()
             : SystemError("touch", path);
}

Status PosixFileIo::Remove(const std::string& path) {
  return std::remove(path.c_str()) == 0 || errno == ENOENT ? Status() : SystemError("remove", path);
}

Status PosixFileIo::MakeDirectories(const std::string& path) {
  std::filesystem::path made;
  for (const std::filesystem::path& part : std::filesystem::path(path)) {
    made /= part;
    if (!made.empty() && mkdir(made.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
      return SystemError("make", made.string());
    }
  }
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return SystemError("make", path);
  }
  return S_ISDIR(info.st_mode) ? Status() : Unavailable("{} is no directory", path);
}

Result<std::unique_ptr<FileLock>> PosixFileIo::Lock(const std::string& path) {
  OpenFile file(path, O_RDWR | O_CREAT);
  if (!file.is_open()) {
    return SystemError("open", path);
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return errno == EWOULDBLOCK ? FailedPrecondition("{} is in use by another process", path)
                                : SystemError("lock", path);
  }
  return std::make_unique<FileLock>(file.Release());
}

}  // namespace thermocline
