#pragma once

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

 private:
  const Tokenizer& tokenizer_;
  bool show_special_;
  std::string pending_;  // at most 3 bytes, a proper prefix of a character
};

}  // namespace thermocline
