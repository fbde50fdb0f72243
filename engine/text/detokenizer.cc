#include "engine/text/detokenizer.h"

#include <string_view>
#include <utility>

#include "engine/text/utf8.h"

namespace thermocline {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

std::string StreamingDetokenizer::Add(TokenId token) {
  pending_ += tokenizer_.TokenBytes(token, show_special_);
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const size_t num_valid = ValidUtf8Prefix(rest);
    text += rest.substr(0, num_valid);
    rest.remove_prefix(num_valid);
    if (rest.empty()) break;
    const Utf8Unit unit = DecodeUtf8(rest);
    if (unit.kind == Utf8Kind::kTruncated) break;
    text += kReplacement;
    rest.remove_prefix(unit.num_bytes);
  }
  pending_ = std::string(rest);
  return text;
}

std::string StreamingDetokenizer::Flush() {
  return std::exchange(pending_, {}).empty() ? std::string() : std::string(kReplacement);
}

}  // namespace thermocline
