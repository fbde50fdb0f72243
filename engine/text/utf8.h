#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace thermocline {

enum class Utf8Kind {
  kValid,
  kInvalid,    // can never become valid, whatever follows
  kTruncated,  // the text ends inside what may become a character
};

// What a text starts with: one character, or the bytes that one U+FFFD stands for (a "maximal
// subpart", as the Unicode standard and Python's errors='replace' count them).
struct Utf8Unit {
  Utf8Kind kind = Utf8Kind::kInvalid;
  char32_t code_point = 0;  // when valid
  size_t num_bytes = 0;     // at least 1
};

// `text` is not empty.
Utf8Unit DecodeUtf8(std::string_view text);

// Length of the longest prefix that is valid.
size_t ValidUtf8Prefix(std::string_view text);

// The number of code points in valid text.
size_t NumCodePoints(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

}  // namespace thermocline
