#include "kernels/base/printable.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace thermocline {
namespace {

TEST(Printable, PlainTextIsItself) {
  EXPECT_EQ(Printable("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
  EXPECT_EQ(Printable(" a~\"'"), " a~\"'");
  EXPECT_EQ(Printable(""), "");
}

TEST(Printable, WhatATerminalWouldObeyIsEscaped) {
  EXPECT_EQ(Printable("\x1b[2J\nerror\r\t\x7f"), "\\x1b[2J\\x0aerror\\x0d\\x09\\x7f");
  EXPECT_EQ(Printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(Printable("\u202e\xff"), "\\xe2\\x80\\xae\\xff");
  EXPECT_EQ(Printable("\\x41"), "\\x5cx41") << "an escape in the text is not one of ours";
}

TEST(Printable, LongTextIsCut) {
  EXPECT_EQ(Printable("abcdef", 6), "abcdef");
  EXPECT_EQ(Printable("abcdef", 5), "abcde...");
  EXPECT_EQ(Printable(std::string(1 << 20, '\n')).size(), 80 * 4 + 3U);
}

}  // namespace
}  // namespace thermocline
