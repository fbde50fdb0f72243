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

StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
      return StatusCode::kNotFound;
    case EEXIST:
      return StatusCode::kAlreadyExists;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return StatusCode::kResourceExhausted;
    case EIO:
      return StatusCode::kDataLoss;
    default:
      return StatusCode::kUnavailable;
  }
}

// The status of the call that failed just now.
Status SystemError(std::string_view what, const std::string& path) {
  const int error = errno;
  return {CodeOf(error), fmt::format("cannot {} {}: {}", what, path, std::strerror(error))};
}

// A descriptor that is closed with this; negative: there is none.
class OpenFile {
 public:
  explicit OpenFile(int file) : file_(file) {}
  OpenFile(OpenFile&& other) noexcept : file_(other.Release()) {}
  OpenFile& operator=(OpenFile&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
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

// A path split into an open folder and a name in it, for system calls that end in `at`.
struct Place {
  OpenFile folder;
  std::string name;  // "." for the path of a root
};

// Walks down to the folder, a name at a time: O_NOFOLLOW alone would follow a link that is no more
// than part of the way. With `mode`, folders that are not there are made.
Place Walk(const std::string& path, const mode_t* mode = nullptr) {
  constexpr int kFlags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  Place place{.folder = OpenFile(open(path.starts_with('/') ? "/" : ".", kFlags)), .name = "."};
  std::string_view left = path;
  for (;;) {
    left.remove_prefix(std::min(left.find_first_not_of('/'), left.size()));
    const std::string_view name = left.substr(0, left.find('/'));
    if (name.empty() || !place.folder.is_open()) {
      return place;
    }
    left.remove_prefix(name.size());
    if (place.name != ".") {
      const int above = place.folder.get();
      if (mode != nullptr && mkdirat(above, place.name.c_str(), *mode) != 0 && errno != EEXIST) {
        place.folder = OpenFile(-1);
        return place;
      }
      OpenFile next(openat(above, place.name.c_str(), kFlags));
      const int error = errno;  // closing the folder above may change it
      place.folder = std::move(next);
      errno = error;
    }
    place.name = name;
  }
}

OpenFile OpenAt(const Place& place, int flags, mode_t mode = 0) {
  return OpenFile(place.folder.is_open() ? openat(place.folder.get(), place.name.c_str(),
                                                  flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode)
                                         : -1);
}

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

// Reads `num_bytes`, or fewer if the file ends before.
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

// Reads a file of at most `max_bytes`. A longer one is kDataLoss, or is cut there with `cut`.
Result<std::vector<std::byte>> ReadBounded(const std::string& path, uint64_t max_bytes, bool cut) {
  const OpenFile file = OpenAt(Walk(path), O_RDONLY);
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
  const OpenFile file = OpenAt(Walk(path), O_WRONLY | O_CREAT | O_EXCL, modes_.file);
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
  const Place source = Walk(from);
  const Place target = source.folder.is_open() ? Walk(to) : Place{OpenFile(-1), ""};
  return target.folder.is_open() && renameat(source.folder.get(), source.name.c_str(),
                                             target.folder.get(), target.name.c_str()) == 0
             ? Status()
             : SystemError("rename", from);
}

Status PosixFileIo::SyncDirectory(const std::string& path) {
  const OpenFile directory = OpenAt(Walk(path), O_RDONLY | O_DIRECTORY);
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
  OpenFile file = OpenAt(Walk(directory), O_RDONLY | O_DIRECTORY);
  const std::unique_ptr<DIR, CloseDirectory> open_directory(file.is_open() ? fdopendir(file.get())
                                                                           : nullptr);
  if (open_directory == nullptr) {
    return SystemError("list", directory);
  }
  (void)file.Release();  // the directory's now
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
  const Place place = Walk(path);
  return place.folder.is_open() && utimensat(place.folder.get(), place.name.c_str(), nullptr,
                                             AT_SYMLINK_NOFOLLOW) == 0
             ? Status()
             : SystemError("touch", path);
}

Status PosixFileIo::Remove(const std::string& path) {
  const Place place = Walk(path);
  const auto unlink_as = [&place](int flags) {
    return place.folder.is_open() && unlinkat(place.folder.get(), place.name.c_str(), flags) == 0;
  };
  return unlink_as(0) || (errno == EISDIR && unlink_as(AT_REMOVEDIR)) || errno == ENOENT
             ? Status()
             : SystemError("remove", path);
}

Status PosixFileIo::MakeDirectories(const std::string& path) {
  const mode_t mode = modes_.directory;
  const OpenFile made = OpenAt(Walk(path + "/.", &mode), O_RDONLY | O_DIRECTORY);
  return made.is_open() ? Status() : SystemError("make", path);
}

Result<std::unique_ptr<FileLock>> PosixFileIo::Lock(const std::string& path) {
  OpenFile file = OpenAt(Walk(path), O_RDWR | O_CREAT, modes_.file);
  struct stat info {};
  if (!file.is_open() || fstat(file.get(), &info) != 0) {
    return SystemError("open", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return Unavailable("{} is no regular file", path);
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return errno == EWOULDBLOCK ? FailedPrecondition("{} is in use by another process", path)
                                : SystemError("lock", path);
  }
  return std::make_unique<FileLock>(file.Release());
}

Result<std::string> ResolveDirectory(const std::string& path) {
  std::error_code error;
  std::string resolved =
      std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error).string();
  if (error) {
    return Unavailable("cannot follow {}: {}", path, error.message());
  }
  while (resolved.size() > 1 && resolved.ends_with('/')) {
    resolved.pop_back();
  }
  return resolved;
}

}  // namespace thermocline
