#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace thermocline {

// Ids of 32 hexadecimal digits: unique within the process, and not to be guessed from one another
// by accident. Not secrets. Thread-safe.
class IdSource {
 public:
  explicit IdSource(uint64_t seed) : seed_(seed) {}

  std::string Next() {
    const uint64_t count = next_.fetch_add(1, std::memory_order_relaxed);
    return fmt::format("{:016x}{:016x}", Mix(seed_ + count), Mix(seed_ ^ ~count));
  }

 private:
  // The finaliser of splitmix64, a bijection: the first half alone is unique.
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }

  const uint64_t seed_;
  std::atomic<uint64_t> next_{0};
};

}  // namespace thermocline
