#include "engine/text/byte_alphabet.h"

#include <array>

#include "engine/text/utf8.h"

namespace thermocline {
namespace {

constexpr int kNumAlphabetEnd = 0x144;  // one past the last code point in use

struct Alphabet {
  std::array<char32_t, 256> from_byte{};
  std::array<int16_t, kNumAlphabetEnd> to_byte{};  // -1: not in the alphabet
};

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.to_byte.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t spelling = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.from_byte[static_cast<size_t>(byte)] = spelling;
    alphabet.to_byte[spelling] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

char32_t ByteToAlphabet(uint8_t byte) { return kAlphabet.from_byte[byte]; }

std::optional<std::string> BytesFromAlphabet(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Unit unit = DecodeUtf8(token);
    if (unit.kind != Utf8Kind::kValid || unit.code_point >= kNumAlphabetEnd ||
        kAlphabet.to_byte[unit.code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kAlphabet.to_byte[unit.code_point]));
    token.remove_prefix(unit.num_bytes);
  }
  return bytes;
}

}  // namespace thermocline
