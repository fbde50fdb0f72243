#include "kernels/core/xxh3.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <random>
#include <vector>

namespace thermocline {
namespace {

// Bytes whose words have high bits and carries of all kinds.
std::vector<std::byte> Bytes(size_t count) {
  std::mt19937_64 random(20504);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) {
    byte = static_cast<std::byte>(random());
  }
  return bytes;
}

TEST(Xxh3, IsTheLibrarysForEveryShortLengthAndSomeBlocks) {
  const std::vector<std::byte> bytes = Bytes(5000);
  for (size_t length = 0; length <= 4200; ++length) {
    const std::byte* data = bytes.data() + length % 13;  // at any address
    ASSERT_EQ(Xxh3(data, length, kXxh3Secret.words), XXH3_64bits(data, length)) << length;
  }
}

TEST(Xxh3, IsTheLibrarysForThePartsOfPages) {
  const std::vector<std::byte> bytes = Bytes(size_t{1} << 17);
  for (const size_t length : {1856, 3328, 6400, 8448, 12544, 16384, 33024, 65536, 131072}) {
    ASSERT_EQ(Xxh3(bytes.data(), length, kXxh3Secret.words), XXH3_64bits(bytes.data(), length))
        << length;
  }
}

// Zeros and ones hide a wrong product or a lost carry from random bytes, not from these.
TEST(Xxh3, IsTheLibrarysForConstantBytes) {
  for (const int value : {0x00, 0xff, 0x80}) {
    const std::vector<std::byte> bytes(3000, static_cast<std::byte>(value));
    for (const size_t length : {0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1024, 1025, 3000}) {
      ASSERT_EQ(Xxh3(bytes.data(), length, kXxh3Secret.words), XXH3_64bits(bytes.data(), length))
          << length;
    }
  }
}

}  // namespace
}  // namespace thermocline
