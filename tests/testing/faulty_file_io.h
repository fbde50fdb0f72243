#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/store/file_io.h"

namespace thermocline {

// Another FileIo whose calls fail, or wait, when a test says so.
class FaultyFileIo : public FileIo {
 public:
  enum class Call {
    kWrite,
    kRename,
    kSyncDirectory,
    kRead,
    kReadHead,
    kList,
    kTouch,
    kRemove,
    kMakeDirectories,
    kLock
  };
  struct Fault {
    Status status;         // ok: a device that lies
    size_t num_bytes = 0;  // how much of a write reaches the file
  };

  explicit FaultyFileIo(FileIo& io) : io_(io) {}

  // Called before each call, on its thread. A fault: the call is not made, but for part of a write.
  // Set while nothing else uses this.
  std::function<std::optional<Fault>(Call call, const std::string& path)> on_call =
      [](Call, const std::string&) { return std::nullopt; };

  Status WriteNewFile(const std::string& path, std::span<const std::byte> bytes) override {
    if (const std::optional<Fault> fault = on_call(Call::kWrite, path)) {
      const Status partly =
          io_.WriteNewFile(path, bytes.first(std::min(fault->num_bytes, bytes.size())));
      return partly.ok() ? fault->status : partly;
    }
    return io_.WriteNewFile(path, bytes);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    const std::optional<Fault> fault = on_call(Call::kRename, to);
    return fault.has_value() ? fault->status : io_.Rename(from, to);
  }
  Status SyncDirectory(const std::string& path) override {
    const std::optional<Fault> fault = on_call(Call::kSyncDirectory, path);
    return fault.has_value() ? fault->status : io_.SyncDirectory(path);
  }
  Result<std::vector<std::byte>> ReadFile(const std::string& path, uint64_t max_bytes) override {
    const std::optional<Fault> fault = on_call(Call::kRead, path);
    return fault.has_value() ? fault->status : io_.ReadFile(path, max_bytes);
  }
  Result<std::vector<std::byte>> ReadHead(const std::string& path, size_t num_bytes) override {
    const std::optional<Fault> fault = on_call(Call::kReadHead, path);
    return fault.has_value() ? fault->status : io_.ReadHead(path, num_bytes);
  }
  Result<std::vector<Entry>> List(const std::string& directory) override {
    const std::optional<Fault> fault = on_call(Call::kList, directory);
    return fault.has_value() ? fault->status : io_.List(directory);
  }
  Status Touch(const std::string& path) override {
    const std::optional<Fault> fault = on_call(Call::kTouch, path);
    return fault.has_value() ? fault->status : io_.Touch(path);
  }
  Status Remove(const std::string& path) override {
    const std::optional<Fault> fault = on_call(Call::kRemove, path);
    return fault.has_value() ? fault->status : io_.Remove(path);
  }
  Status MakeDirectories(const std::string& path) override {
    const std::optional<Fault> fault = on_call(Call::kMakeDirectories, path);
    return fault.has_value() ? fault->status : io_.MakeDirectories(path);
  }
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    const std::optional<Fault> fault = on_call(Call::kLock, path);
    return fault.has_value() ? fault->status : io_.Lock(path);
  }

  // Everything ends before call `index` (from 0): it and all later ones do nothing, but that a
  // write at `index` leaves its first `num_bytes`. `num_calls` counts all.
  void CutAt(size_t index, size_t num_bytes, size_t& num_calls) {
    on_call = [index, num_bytes, &num_calls](Call, const std::string&) -> std::optional<Fault> {
      const size_t call = num_calls++;
      if (call < index) {
        return std::nullopt;
      }
      return Fault{.status = Unavailable("the power is gone"),
                   .num_bytes = call == index ? num_bytes : 0};
    };
  }

 private:
  FileIo& io_;
};

}  // namespace thermocline
