#include "server/api/prompt_bound.h"

#include <fmt/format.h>

#include "engine/text/tokenizer.h"

namespace thermocline {

std::optional<std::string> TooManyBytes(const ApiContext& context, std::string_view prompt) {
  const auto limit = static_cast<size_t>(context.service.max_model_len());
  const size_t least = context.service.tokenizer().MinTokens(prompt);
  if (least <= limit) {
    return std::nullopt;
  }
  return fmt::format(
      "has {} bytes, so at least {} tokens; this model's maximum context length is {} tokens",
      prompt.size(), least, limit);
}

}  // namespace thermocline
