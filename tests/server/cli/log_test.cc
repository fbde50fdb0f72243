#include "server/cli/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

namespace thermocline {
namespace {

class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe(ends_.data()), 0); }
  ~Pipe() {
    close(ends_[0]);
    close(ends_[1]);
  }
  int writer() const { return ends_[1]; }
  // What there is to read now.
  std::string Drain() const {
    fcntl(ends_[0], F_SETFL, O_NONBLOCK);
    std::string text;
    std::array<char, 65536> chunk;
    for (ssize_t size = 0; (size = read(ends_[0], chunk.data(), chunk.size())) > 0;) {
      text.append(chunk.data(), static_cast<size_t>(size));
    }
    return text;
  }

 private:
  std::array<int, 2> ends_{};
};

TEST(EscapedForLog, NothingIsLeftThatATerminalObeys) {
  EXPECT_EQ(EscapedForLog("plain, caf\u00e9 \U0001F600"), "plain, caf\u00e9 \U0001F600");
  EXPECT_EQ(EscapedForLog("a\nb\tc\rd"), "a\\nb\\tc\\rd");
  EXPECT_EQ(EscapedForLog("\x1b[2J\x07\x7f"), "\\x1b[2J\\x07\\x7f");
  EXPECT_EQ(EscapedForLog(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(EscapedForLog("\u009b1m"), "\\x9b1m");     // an escape sequence of one character
  EXPECT_EQ(EscapedForLog("\x9b\xff"), "\\x9b\\xff");  // no UTF-8
  EXPECT_EQ(EscapedForLog("\u202eabc\u2028"), "\\u202eabc\\u2028");
}

TEST(LineWriter, AFullPipeDropsLinesAndSaysHowMany) {
  const Pipe pipe;
  LineWriter writer(pipe.writer());
  const std::string line(999, 'x');
  for (int i = 0; i < 1000; ++i) {  // a megabyte: this ends though nobody reads
    writer.Write(line + "\n");
  }
  EXPECT_LT(pipe.Drain().size(), 1'000'000U);
  writer.Write("the next\n");
  const std::string after = pipe.Drain();
  EXPECT_NE(after.find(" lines of the log were dropped"), std::string::npos) << after;
  EXPECT_TRUE(after.ends_with("the next\n")) << after;
}

TEST(LineWriter, TheDescriptorOfOthersStillWaits) {
  const Pipe pipe;
  const LineWriter writer(pipe.writer());
  EXPECT_EQ(fcntl(pipe.writer(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(LineWriter, LongLinesAreCut) {
  const Pipe pipe;
  LineWriter(pipe.writer()).Write(std::string(10'000, 'x') + "\n");
  const std::string line = pipe.Drain();
  EXPECT_EQ(line.size(), LineWriter::kMaxLineBytes);
  EXPECT_TRUE(line.ends_with("...\n"));
}

}  // namespace
}  // namespace thermocline
