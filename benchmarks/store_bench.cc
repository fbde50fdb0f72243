// How fast pages go to a backing store's directory and come back: store_bench DIRECTORY [PAGES
// [BYTES]]. Writes PAGES files of BYTES there, an empty directory, and leaves them.

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "engine/store/backing_store.h"
#include "engine/store/posix_file_io.h"

namespace thermocline {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ContentHash HashOf(uint64_t number) {
  return {.low = number * 0x9e3779b97f4a7c15U, .high = number * 0xbf58476d1ce4e5b9U};
}

StoredPage PageOf(uint64_t number, size_t num_bytes) {
  StoredPage page{.tier = Tier::kCold, .loss = Tier::kCold, .tenant = "default"};
  page.tokens.assign(64, static_cast<TokenId>(number));
  page.bytes.assign(num_bytes, static_cast<std::byte>(number));
  return page;
}

int Run(const std::string& directory, uint64_t num_pages, uint32_t num_bytes) {
  PosixFileIo io;
  const Result<std::string> resolved = ResolveDirectory(directory);
  BackingStore::Config config{.directory = resolved.ok() ? *resolved : directory,
                              .memory_bytes = uint64_t{64} << 20,
                              .disk_bytes = uint64_t{1} << 40,
                              .limits = {.page_tokens = 64},
                              .fresh_key = 1};
  config.limits.page_bytes[static_cast<size_t>(Tier::kCold)] = num_bytes;
  const auto report = [&](const char* what, double seconds) {
    fmt::print("{:<24}{:8.3f} s {:9.1f} MB/s {:8.3f} ms a page\n", what, seconds,
               static_cast<double>(num_pages) * num_bytes / 1e6 / seconds,
               1e3 * seconds / static_cast<double>(num_pages));
  };
  {
    const auto store = BackingStore::Create(config, io);
    if (!store.ok()) {
      fmt::print(stderr, "{}\n", store.status().message());
      return 1;
    }
    const Clock::time_point start = Clock::now();
    for (uint64_t number = 0; number < num_pages; ++number) {
      if (!(*store)->Put(HashOf(number), PageOf(number, num_bytes)).ok()) {
        return 1;
      }
    }
    if (!(*store)->Flush().ok()) {
      return 1;
    }
    report("put and flush", SecondsSince(start));
  }
  Clock::time_point start = Clock::now();
  const auto store = BackingStore::Create(config, io);
  fmt::print("{:<24}{:8.3f} s\n", "open", SecondsSince(start));
  start = Clock::now();
  for (uint64_t number = 0; number < num_pages; ++number) {
    if (!(*store)->Get(HashOf(number)).ok()) {
      return 1;
    }
  }
  report("get, one thread", SecondsSince(start));
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "store_bench DIRECTORY [PAGES [BYTES]]\n");
    return 1;
  }
  const uint64_t num_pages = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2000;
  const auto num_bytes =
      static_cast<uint32_t>(argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 300'000);
  return thermocline::Run(argv[1], num_pages, num_bytes);
}
