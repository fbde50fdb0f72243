// Records with some bytes, lengths and numbers changed go through the fuzzer's entry, which CHECKs
// what comes of them. The same run each time.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "engine/store/page_record.h"
#include "engine/store/session_record.h"
#include "tests/testing/stored_pages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace thermocline {
namespace {

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> Seeds() {
  StoredPage small = TestPage(3, Tier::kCold, Tier::kCold);
  small.tenant = "t";
  const SavedSession session{.tenant = "t",
                             .id = "chat",
                             .tokens = {1, 2, 3},
                             .pages = {TestHash(1)},
                             .saved_at_unix = 5,
                             .bytes = 6};
  std::vector<Bytes> seeds;
  for (const std::vector<std::byte>& record :
       {EncodePage(kTestIdentity, TestHash(1), TestPage(1)),
        EncodePage(kTestIdentity, TestHash(3), small), EncodeSession(kTestIdentity, session)}) {
    Bytes& seed = seeds.emplace_back();
    for (const std::byte byte : record) {
      seed.push_back(std::to_integer<uint8_t>(byte));
    }
  }
  return seeds;
}

// Numbers at which a check could be off by one, or an addition wrap.
constexpr uint64_t kEdges[] = {0,  1,   3,   4,   5,   40,  64,          65,
                               80, 128, 129, 160, 256, 257, ~uint64_t{0}};

void Mutate(Bytes& bytes, std::mt19937_64& random) {
  const auto place = [&](size_t width) { return random() % (bytes.size() - width + 1); };
  switch (random() % 5) {
    case 0:
      bytes[place(1)] ^= static_cast<uint8_t>(1U << random() % 8);
      break;
    case 1:
      bytes[place(1)] = static_cast<uint8_t>(random());
      break;
    case 2: {  // a field of the head, aligned
      const size_t width = random() % 2 == 0 ? 4 : 8;
      const size_t at = random() % (kPageHeadBytes / width) * width;
      const uint64_t value = kEdges[random() % std::size(kEdges)] - random() % 2;
      for (size_t i = 0; i < width; ++i) {
        bytes[at + i] = static_cast<uint8_t>(value >> (8 * i));
      }
      break;
    }
    case 3:
      bytes.resize(std::max<size_t>(kPageHeadBytes, place(1)));
      break;
    default:
      bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(place(1)), random() % 20,
                   static_cast<uint8_t>(random()));
  }
}

TEST(StoreMutation, EveryRecordDecodesToWhatEncodesSoOrNotAtAll) {
  const std::vector<Bytes> seeds = Seeds();
  std::mt19937_64 random(1);
  for (int run = 0; run < 100'000; ++run) {
    Bytes bytes = seeds[random() % seeds.size()];
    for (uint64_t left = random() % 4; left > 0; --left) {
      Mutate(bytes, random);
    }
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
}

TEST(StoreMutation, NoiseOfAnyLengthIsNoRecord) {
  std::mt19937_64 random(2);
  for (size_t size = 0; size < 700; ++size) {
    Bytes bytes(size);
    std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<uint8_t>(random()); });
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    EXPECT_FALSE(
        DecodePage(kTestIdentity, TestHash(1), std::as_bytes(std::span(bytes)), kTestLimits).ok());
  }
}

}  // namespace
}  // namespace thermocline
