#include "engine/text/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

uint8_t ByteAt(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// The standard's table 3-7: how long a sequence is, and what may follow its first byte.
struct Lead {
  size_t num_bytes = 0;  // 0: starts nothing
  uint8_t second_low = 0x80;
  uint8_t second_high = 0xbf;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0xc2 || byte > 0xf4) {
    return {};
  }
  if (byte < 0xe0) {
    return {.num_bytes = 2};
  }
  if (byte == 0xe0) {
    return {.num_bytes = 3, .second_low = 0xa0};  // overlong below
  }
  if (byte == 0xed) {
    return {.num_bytes = 3, .second_high = 0x9f};  // surrogates above
  }
  if (byte < 0xf0) {
    return {.num_bytes = 3};
  }
  if (byte == 0xf0) {
    return {.num_bytes = 4, .second_low = 0x90};  // overlong below
  }
  if (byte == 0xf4) {
    return {.num_bytes = 4, .second_high = 0x8f};  // past U+10FFFF above
  }
  return {.num_bytes = 4};
}

}  // namespace

Utf8Unit DecodeUtf8(std::string_view text) {
  CHECK(!text.empty());
  const uint8_t first = ByteAt(text, 0);
  if (first < 0x80) {
    return {Utf8Kind::kValid, first, 1};
  }
  const Lead lead = LeadOf(first);
  if (lead.num_bytes == 0) {
    return {Utf8Kind::kInvalid, 0, 1};
  }
  char32_t code_point = first & (0x7fu >> lead.num_bytes);
  for (size_t i = 1; i < lead.num_bytes; ++i) {
    if (i == text.size()) {
      return {Utf8Kind::kTruncated, 0, i};
    }
    const uint8_t byte = ByteAt(text, i);
    const uint8_t low = i == 1 ? lead.second_low : 0x80;
    const uint8_t high = i == 1 ? lead.second_high : 0xbf;
    if (byte < low || byte > high) {
      return {Utf8Kind::kInvalid, 0, i};
    }
    code_point = code_point << 6 | (byte & 0x3fu);
  }
  return {Utf8Kind::kValid, code_point, lead.num_bytes};
}

size_t ValidUtf8Prefix(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    uint64_t eight = 0;
    if (text.size() - pos >= sizeof(eight)) {
      std::memcpy(&eight, text.data() + pos, sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        pos += sizeof(eight);
        continue;
      }
    }
    const Utf8Unit unit = DecodeUtf8(text.substr(pos));
    if (unit.kind != Utf8Kind::kValid) {
      break;
    }
    pos += unit.num_bytes;
  }
  return pos;
}

size_t NumCodePoints(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;  // not a continuation byte
  }));
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto push = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xc0 | code_point >> 6);
    push(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    push(0xe0 | code_point >> 12);
    push(0x80 | (code_point >> 6 & 0x3f));
    push(0x80 | (code_point & 0x3f));
  } else {
    push(0xf0 | code_point >> 18);
    push(0x80 | (code_point >> 12 & 0x3f));
    push(0x80 | (code_point >> 6 & 0x3f));
    push(0x80 | (code_point & 0x3f));
  }
}

}  // namespace thermocline
