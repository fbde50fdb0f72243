#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/api/api_request.h"

namespace thermocline {

// What is wrong with a prompt that has too many bytes for the model's context whatever its tokens
// are; nothing where it may fit. Asked before a prompt is tokenised, for that takes a hundred times
// as long.
std::optional<std::string> TooManyBytes(const ApiContext& context, std::string_view prompt);

}  // namespace thermocline
