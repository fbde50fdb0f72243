#include "kernels/cpu/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace thermocline {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

std::optional<uint64_t> ReadNumber(const std::filesystem::path& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;  // "max" is not a number
}

// The value of a line `name value` of a file of such lines; `name` includes a colon if there is
// one.
std::optional<uint64_t> ReadField(const std::filesystem::path& path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  for (std::string line; file >> key;) {
    uint64_t value = 0;
    if (key == name && file >> value) {
      return value;
    }
    std::getline(file, line);
  }
  return std::nullopt;
}

// The process's path in a hierarchy: of cgroup v2 (`0::/path`), or of v1's memory controller.
std::optional<std::string> CgroupPath(const std::filesystem::path& root, bool v2) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? controllers.empty() : controllers.find("memory") != std::string::npos) {
      return line.substr(second + 1);
    }
  }
  return std::nullopt;
}

struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* usage;
  const char* reclaimable;  // a field of memory.stat: file cache that the kernel gives back first
};

// The tightest limit from the process's own group up to the root of what is mounted here.
uint64_t CgroupAvailable(const std::filesystem::path& root, const std::string& path,
                         const CgroupFiles& files) {
  const std::filesystem::path mount = root / files.mount;
  uint64_t available = kUnlimited;
  std::filesystem::path group = std::filesystem::path(path).relative_path();
  while (true) {
    const std::filesystem::path folder = group.empty() ? mount : mount / group;
    if (const std::optional<uint64_t> limit = ReadNumber(folder / files.limit)) {
      const uint64_t usage = ReadNumber(folder / files.usage).value_or(0);
      const uint64_t reclaimable =
          std::min(usage, ReadField(folder / "memory.stat", files.reclaimable).value_or(0));
      const uint64_t used = usage - reclaimable;
      available = std::min(available, *limit > used ? *limit - used : 0);
    }
    if (group.empty()) {
      return available;
    }
    group = group.parent_path();
  }
}

}  // namespace

uint64_t AvailableMemoryBytes(const std::filesystem::path& root) {
  const std::optional<uint64_t> kib = ReadField(root / "proc/meminfo", "MemAvailable:");
  uint64_t available = kib ? *kib * 1024 : kUnlimited;
  if (const std::optional<std::string> path = CgroupPath(root, /*v2=*/true)) {
    available = std::min(available, CgroupAvailable(root, *path,
                                                    {"sys/fs/cgroup", "memory.max",
                                                     "memory.current", "inactive_file"}));
  }
  if (const std::optional<std::string> path = CgroupPath(root, /*v2=*/false)) {
    available =
        std::min(available, CgroupAvailable(root, *path,
                                            {"sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                             "memory.usage_in_bytes", "total_inactive_file"}));
  }
  return available == kUnlimited ? 0 : available;
}

}  // namespace thermocline
