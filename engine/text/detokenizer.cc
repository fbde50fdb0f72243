#include "engine/text/detokenizer.h"

#include <string_view>
#include <utility>

#include "engine/text/utf8.h"

namespace thermocline {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

std::string StreamingDetokenizer::Add(TokenId token) {
  const std::string_view bytes = tokenizer_.TokenBytes(token, show_special_);
  const size_t num_held = pending_.size();
  pending_ += bytes;
  std::string text;
  std::string_view rest = pending_;
  // If this token does not continue the bytes that were held back, they are a character of their
  // own.
  const bool ends_held = num_held > 0 && !bytes.empty() && DecodeUtf8(rest).num_bytes == num_held;
  last_begin_ = num_given_ + (ends_held ? 1 : 0);
  while (!rest.empty()) {
    const size_t num_valid = ValidUtf8Prefix(rest);
    text += rest.substr(0, num_valid);
    rest.remove_prefix(num_valid);
    if (rest.empty()) {
      break;
    }
    const Utf8Unit unit = DecodeUtf8(rest);
    if (unit.kind == Utf8Kind::kTruncated) {
      break;
    }
    text += kReplacement;
    rest.remove_prefix(unit.num_bytes);
  }
  pending_ = std::string(rest);
  num_given_ += NumCodePoints(text);
  return text;
}

std::string StreamingDetokenizer::Flush() {
  if (std::exchange(pending_, {}).empty()) {
    return {};
  }
  ++num_given_;
  return std::string(kReplacement);
}

}  // namespace thermocline
