#pragma once

#include <cstddef>
#include <string>

#include "engine/text/tokenizer.h"
#include "kernels/base/token.h"

namespace thermocline {

// Turns tokens into text as they come, never giving half a character: bytes that may still become
// one are held back. Whatever the split into calls, the concatenation of all that Add and the final
// Flush return is Tokenizer::Decode of all tokens. Malformed bytes become U+FFFD as Python's
// bytes.decode(errors='replace') has it. One per output; the tokenizer outlives it.
class StreamingDetokenizer {
 public:
  StreamingDetokenizer(const Tokenizer& tokenizer, bool show_special)
      : tokenizer_(tokenizer), show_special_(show_special) {}

  std::string Add(TokenId token);  // what is complete now; may be empty
  std::string Flush();             // at the end: U+FFFD for a character that was left unfinished
  // Where in the whole text, counted in code points, the token that was added last begins: at the
  // character that its first byte belongs to, whether that has been given out or not. A token that
  // shows nothing is where the text had got to.
  size_t last_begin() const { return last_begin_; }
  size_t num_given() const { return num_given_; }  // code points so far

 private:
  const Tokenizer& tokenizer_;
  bool show_special_;
  std::string pending_;   // at most 3 bytes, a proper prefix of a character
  size_t num_given_ = 0;  // code points
  size_t last_begin_ = 0;
};

}  // namespace thermocline
