#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace thermocline {

// The messages between the server and its template worker: a kind, then fields, each with its
// length before it.
enum class TemplateCall : char {
  kCompile = 'c',    // source, bos, eos, max_output_bytes -> nothing
  kFindForms = 'f',  // nothing -> forms, for kRender
  kRender = 'r',     // flags, forms, messages, tools, kwargs -> plain ranges, text
};

inline constexpr char kAddGenerationPrompt = 1;
inline constexpr char kContinueFinalMessage = 2;

inline void AppendField(std::string& message, std::string_view field) {
  const uint32_t size = static_cast<uint32_t>(field.size());
  message.append(reinterpret_cast<const char*>(&size), sizeof(size));
  message.append(field);
}

// Takes the first field off `rest`; false when there is none.
inline bool TakeField(std::string_view& rest, std::string_view& field) {
  uint32_t size = 0;
  if (rest.size() < sizeof(size)) {
    return false;
  }
  std::memcpy(&size, rest.data(), sizeof(size));
  rest.remove_prefix(sizeof(size));
  if (rest.size() < size) {
    return false;
  }
  field = rest.substr(0, size);
  rest.remove_prefix(size);
  return true;
}

template <typename T>
void AppendValue(std::string& message, T value) {
  AppendField(message, {reinterpret_cast<const char*>(&value), sizeof(value)});
}

template <typename T>
bool TakeValue(std::string_view& rest, T& value) {
  std::string_view field;
  if (!TakeField(rest, field) || field.size() != sizeof(value)) {
    return false;
  }
  std::memcpy(&value, field.data(), sizeof(value));
  return true;
}

}  // namespace thermocline
