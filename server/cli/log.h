#pragma once

#include <string>
#include <string_view>

namespace thermocline {

// Starts the program's log on stderr. A line never waits for whoever reads it: what a full pipe
// does not take is dropped and counted. Nor can the text of a file or a request do anything but be
// read: see EscapedForLog.
void StartLog(const std::string& level);

// `text` without what a terminal or a reader of lines would obey: control characters, malformed
// UTF-8, and marks that change the direction of what follows become `\n`, `\x1b`, `\u202e`.
std::string EscapedForLog(std::string_view text);

// Writes lines to a descriptor without waiting: one that is not taken whole is dropped, and once
// there is room again a line says how many were. Not thread-safe.
class LineWriter {
 public:
  explicit LineWriter(int descriptor);
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  void Write(std::string_view line);  // cut at kMaxLineBytes

  static constexpr size_t kMaxLineBytes = 4096;  // what a pipe takes whole or not at all

 private:
  bool TryWrite(std::string_view line) const;

  int descriptor_;
  bool owned_ = false;
  bool is_socket_ = false;
  size_t num_dropped_ = 0;
};

}  // namespace thermocline
