#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "engine/store/backing_store.h"
#include "engine/store/page_record.h"
#include "engine/store/session_record.h"
#include "kernels/base/check.h"
#include "tests/testing/token_hash.h"

namespace thermocline {

// A model of tiny pages, and what tests of the stores put and expect.
inline constexpr ContentHash kTestIdentity{.low = 0x1dea, .high = 0x5eed};
inline constexpr PageLimits kTestLimits{.page_tokens = 4, .page_bytes = {160, 80, 40, 0, 0}};
inline constexpr SessionLimits kTestSessionLimits{.max_tokens = 50};

inline ContentHash TestHash(uint64_t number) {
  return {.low = Mix(number + 1), .high = Mix(number + 1000)};
}

// What is in it follows from number, tier and loss alone.
inline StoredPage TestPage(uint64_t number, Tier tier = Tier::kHot, Tier loss = Tier::kHot) {
  StoredPage page{.tier = tier,
                  .loss = loss,
                  .first_position = static_cast<int32_t>(number % 1000) * 4,
                  .checksum = tier == Tier::kHot ? 0 : Mix(number),
                  .previous = TestHash(number + 77),
                  .tenant = std::string(kMaxTenantBytes, 't'),
                  .tokens = {1, -2, static_cast<TokenId>(number), 4}};
  uint64_t state = Mix(number * 16 + static_cast<uint64_t>(tier) * 2 + (loss > Tier::kHot ? 1 : 0));
  for (uint32_t i = 0; i < kTestLimits.page_bytes[static_cast<size_t>(tier)]; ++i) {
    state = Mix(state + i);
    page.bytes.push_back(static_cast<std::byte>(state & 0xff));
  }
  return page;
}

inline const uint64_t kTestPageBytes =
    PageRecordBytes(TestPage(0));  // the size of a hot page's record

// A folder of its own that goes with it. In memory where there is such a place: syncing to a device
// would be most of the tests' time.
class TestFolder {
 public:
  TestFolder() : path_((Parent() / "thermocline-XXXXXX").string()) {
    CHECK(mkdtemp(path_.data()) != nullptr);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

  // All files below whose name ends so, in order of their paths.
  std::vector<std::filesystem::path> Files(const std::string& suffix) const {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
      if (entry.is_regular_file() && entry.path().string().ends_with(suffix)) {
        found.push_back(entry.path());
      }
    }
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  static std::filesystem::path Parent() {
    const std::filesystem::path in_memory = "/dev/shm";
    return std::filesystem::is_directory(in_memory) ? in_memory
                                                    : std::filesystem::temp_directory_path();
  }

  std::string path_;
};

inline std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void WriteText(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Room for `memory_pages` and `disk_pages` hot test pages, which are the largest records there are.
inline BackingStore::Config TestConfig(std::string directory, uint64_t memory_pages,
                                       uint64_t disk_pages) {
  return {.directory = std::move(directory),
          .memory_bytes = memory_pages * kTestPageBytes,
          .disk_bytes = disk_pages * kTestPageBytes,
          .identity = kTestIdentity,
          .limits = kTestLimits,
          .fresh_key = 42};
}

}  // namespace thermocline
