#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace thermocline {

// How byte-level BPE spells bytes in a vocabulary: printable Latin-1 bytes as themselves, the other
// 68 as U+0100 and on, so that a token is always printable text (a space is U+0120, "Ġ").
char32_t ByteToAlphabet(uint8_t byte);

// The bytes that `token` spells; nothing when a character is not of the alphabet.
std::optional<std::string> BytesFromAlphabet(std::string_view token);

}  // namespace thermocline
