#include "server/api/request_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/store/page_record.h"
#include "engine/store/session_record.h"

namespace thermocline {

int ClampTopK(int64_t top_k, int vocab_size) {
  return top_k >= vocab_size ? 0 : static_cast<int>(std::max<int64_t>(top_k, 0));
}

bool IsToken(int64_t token, int vocab_size) { return token >= 0 && token < vocab_size; }

std::string TokenRangeMessage(int vocab_size) {
  return fmt::format("a token id from 0 to {}", vocab_size - 1);
}

Fault CheckRepeatLastN(int64_t repeat_last_n, const SamplingParams& sampling) {
  const bool has_penalty = sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 ||
                           sampling.frequency_penalty != 0;
  if (repeat_last_n >= 0 && has_penalty) {
    return FieldFault{"repeat_last_n", "must be -1: penalties are over all tokens"};
  }
  return std::nullopt;
}

Fault CheckStopString(std::string_view stop) {
  if (stop.empty() || stop.size() > kMaxStopBytes) {
    return FieldFault{"stop", fmt::format("must be strings of 1 to {} bytes", kMaxStopBytes)};
  }
  return std::nullopt;
}

Fault CheckBestOf(int64_t best_of, int num_choices) {
  if (best_of != num_choices) {
    return FieldFault{"best_of", "must equal `n`: choices are not ranked"};
  }
  return std::nullopt;
}

Fault CheckStreamOptions(bool stream, bool include_usage) {
  if (!stream && include_usage) {
    return FieldFault{"stream_options", "is only allowed when `stream` is true"};
  }
  return std::nullopt;
}

Fault CheckPromptLogprobs(int num_prompt_logprobs, bool stream) {
  if (num_prompt_logprobs >= 0 && stream) {
    return FieldFault{"prompt_logprobs", "is not available when `stream` is true"};
  }
  return std::nullopt;
}

Fault CheckTopLogprobs(int64_t top_logprobs, bool logprobs) {
  if (top_logprobs > 0 && !logprobs) {
    return FieldFault{"top_logprobs", "needs `logprobs` to be true"};
  }
  return std::nullopt;
}

Fault CheckMaxTokens(std::string_view field, int64_t max_tokens, bool asks_about_prompt) {
  if (max_tokens == 0 && !asks_about_prompt) {
    return FieldFault{std::string(field),
                      "may be 0 only where the answer is about the prompt: with `echo` or "
                      "`prompt_logprobs`"};
  }
  return std::nullopt;
}

Fault CheckNumPrompts(size_t num_prompts, const Request& common) {
  if (num_prompts > 1 && !common.session_id.empty()) {
    return FieldFault{"session_id", "needs a request of one prompt"};
  }
  return std::nullopt;
}

Fault SetSession(std::string session_id, Request& request) {
  request.session_id = std::move(session_id);
  if (!request.session_id.empty() && !ValidSessionId(request.session_id)) {
    return FieldFault{"session_id",
                      "must be 1 to 128 letters, digits, dots, underscores and dashes"};
  }
  return std::nullopt;
}

Fault SetCacheScope(const std::optional<std::string>& cache_salt, Request& request) {
  if (!cache_salt.has_value()) {
    return std::nullopt;
  }
  static_assert(kMaxCacheSaltBytes <= kMaxTenantBytes / 2);  // the store keeps it with each page
  request.tenant += '\0' + *cache_salt;                      // no tenant's own name has the byte
  if (cache_salt->empty()) {
    return FieldFault{"cache_salt", "must be a string that is not empty"};
  }
  if (!request.session_id.empty()) {
    return FieldFault{"cache_salt",
                      "excludes `session_id`: what is saved by name is restored by name"};
  }
  return std::nullopt;
}

Fault FitLength(int max_model_len, std::string_view prompt_field, int64_t max_tokens,
                Request& request, std::vector<std::string>& warnings) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t room = max_model_len - prompt_tokens;
  if (prompt_tokens == 0) {
    return FieldFault{std::string(prompt_field), "is empty: there is nothing to continue"};
  }
  if (room < 0 || (room == 0 && max_tokens != 0)) {
    return FieldFault{
        std::string(prompt_field),
        fmt::format("has {} tokens; this model's maximum context length is {} tokens, and "
                    "at least one of them must be left for the answer",
                    prompt_tokens, max_model_len)};
  }
  request.stop.max_tokens = static_cast<int>(max_tokens < 0 ? room : std::min(max_tokens, room));
  int& min_tokens = request.stop.min_tokens;
  if (max_tokens > room) {
    warnings.push_back(fmt::format(
        "max_tokens: a prompt of {} tokens leaves room for {} of the {} that were asked "
        "for; this model's maximum context length is {} tokens",
        prompt_tokens, room, max_tokens, max_model_len));
    min_tokens =
        min_tokens <= max_tokens ? std::min(min_tokens, request.stop.max_tokens) : min_tokens;
  }
  if (min_tokens > request.stop.max_tokens) {
    return FieldFault{"min_tokens", fmt::format("is more than the {} tokens that may be generated",
                                                request.stop.max_tokens)};
  }
  return std::nullopt;
}

}  // namespace thermocline
