#pragma once

#include <cstdint>
#include <filesystem>

namespace thermocline {

// Bytes that this process may still use: what the machine has available, or less where a cgroup
// (a container) allows less. 0 when nothing can be read. `root` is "/" but in tests.
uint64_t AvailableMemoryBytes(const std::filesystem::path& root);

}  // namespace thermocline
