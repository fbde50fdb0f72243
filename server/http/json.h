#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// Objects keep the order in which their fields were written.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  int max_depth = 64;  // arrays and objects inside each other
  size_t max_values =
      size_t{1} << 20;  // any kind counts: bounds the memory that a small body takes
};

// Strict: no trailing text, no duplicate key, no number that a double cannot hold, valid UTF-8
// without lone surrogates, everything within the limits. kInvalidArgument says where.
// Neither the parser nor the limits use the stack for depth.
Result<Json> ParseJson(std::string_view text, const JsonLimits& limits = {});

// Compact; malformed UTF-8 is replaced by U+FFFD.
std::string DumpJson(const Json& value);

}  // namespace thermocline
