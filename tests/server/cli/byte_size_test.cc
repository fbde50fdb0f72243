#include "server/cli/byte_size.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

TEST(ByteSize, SuffixesAreUnderstood) {
  EXPECT_EQ(*ParseByteSize("123"), 123U);
  EXPECT_EQ(*ParseByteSize("1.5K"), 1536U);
  EXPECT_EQ(*ParseByteSize("2MiB"), 2U << 20);
  EXPECT_EQ(*ParseByteSize("1G"), 1U << 30);
  EXPECT_EQ(*ParseByteSize("1GB"), 1'000'000'000U);
  EXPECT_EQ(*ParseByteSize("25k"), 25'000U);
  for (const char* bad : {"", "G", "-1", "1X", "1 G", "nan", "inf", "1e30", "9999999T", "1GiBx"}) {
    EXPECT_FALSE(ParseByteSize(bad).ok()) << bad;
  }
  EXPECT_EQ(FormatByteSize(1536), "1.50 KiB");
  EXPECT_EQ(FormatByteSize(5), "5 B");
}

}  // namespace
}  // namespace thermocline
