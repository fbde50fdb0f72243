#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/token.h"
#include "scheduler/request.h"

// What a request may ask for, however it comes in: ranges, defaults, combinations and what is cut.
// Readers of JSON, or of another protocol, take values apart and ask here. The names of fields are
// those of the API.

namespace thermocline {

// What is wrong with a request, and in which field.
struct FieldFault {
  std::string field;
  std::string message;  // goes on after the field's name: "must be a number"
};
using Fault = std::optional<FieldFault>;

// The values that a field may have, both ends included, and the one that it has when absent.
template <typename T>
struct FieldRange {
  T fallback;
  T min;
  T max;
};

inline constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
inline constexpr FieldRange<double> kTemperatureRange{.fallback = 1, .min = 0, .max = 100};
inline constexpr FieldRange<double> kTopPRange{.fallback = 1, .min = 0, .max = 1};
inline constexpr FieldRange<double> kMinPRange{.fallback = 0, .min = 0, .max = 1};
inline constexpr FieldRange<double> kRepetitionPenaltyRange{
    .fallback = 1, .min = 1.0 / 100, .max = 100};
inline constexpr FieldRange<double> kPenaltyRange{.fallback = 0, .min = -2, .max = 2};
inline constexpr FieldRange<double> kLogitBiasRange{.fallback = 0, .min = -100, .max = 100};
inline constexpr FieldRange<int64_t> kTopKRange{.fallback = 0, .min = -1, .max = kMaxCount};
inline constexpr FieldRange<int64_t> kRepeatLastNRange{.fallback = -1, .min = -1, .max = kMaxCount};
inline constexpr FieldRange<int64_t> kMinTokensRange{.fallback = 0, .min = 0, .max = kMaxCount};
// -1: all the room there is. Some clients' "no limit" is the largest whole number of JavaScript's.
inline constexpr FieldRange<int64_t> kChatMaxTokensRange{
    .fallback = -1, .min = -1, .max = int64_t{1} << 53};
inline constexpr FieldRange<int64_t> kCompletionMaxTokensRange{
    .fallback = 16, .min = -1, .max = int64_t{1} << 53};

// One request's caps: what a small body may ask for.
inline constexpr FieldRange<int64_t> kNumChoicesRange{.fallback = 1, .min = 1, .max = 8};  // n
inline constexpr FieldRange<int64_t> kLogprobsRange{.fallback = -1, .min = 0, .max = 20};
inline constexpr FieldRange<int64_t> kTopLogprobsRange{.fallback = 0, .min = 0, .max = 20};
inline constexpr int kMaxPrompts = 64;  // in a completion request
inline constexpr int kMaxStops = 16;    // strings
inline constexpr int kMaxStopIds = 128;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr size_t kMaxStopBytes = 1024;
inline constexpr size_t kMaxSessionIdBytes = 128;
inline constexpr size_t kMaxCacheSaltBytes = 128;

// -1 and 0 are both "all"; so is more than there are.
int ClampTopK(int64_t top_k, int vocab_size);
bool IsToken(int64_t token, int vocab_size);
std::string TokenRangeMessage(int vocab_size);  // what a token id must be

// llama.cpp's `repeat_last_n`, over how many tokens penalties look back: ours look at all.
Fault CheckRepeatLastN(int64_t repeat_last_n, const SamplingParams& sampling);
Fault CheckStopString(std::string_view stop);
// Choices are not ranked.
Fault CheckBestOf(int64_t best_of, int num_choices);
Fault CheckStreamOptions(bool stream, bool include_usage);
Fault CheckPromptLogprobs(int num_prompt_logprobs, bool stream);
Fault CheckTopLogprobs(int64_t top_logprobs, bool logprobs);
// `field`: the name that the client has used. Nothing to generate is a question about the prompt
// alone.
Fault CheckMaxTokens(std::string_view field, int64_t max_tokens, bool asks_about_prompt);
Fault CheckNumPrompts(size_t num_prompts, const Request& common);

// `session_id` and `cache_salt`. A salt parts the prefix cache: only requests with the same one
// share pages. It goes into the request's tenant. Sessions are restored by name, without a salt, so
// that nobody gets both. Nothing: the field is absent.
Fault SetSession(std::string session_id, Request& request);
Fault SetCacheScope(const std::optional<std::string>& cache_salt, Request& request);

// Holds prompt and output to the model's length. `max_tokens` < 0: all the room there is. More than
// that is cut, with a warning. A prompt that leaves no room is fine where nothing is generated.
Fault FitLength(int max_model_len, std::string_view prompt_field, int64_t max_tokens,
                Request& request, std::vector<std::string>& warnings);

}  // namespace thermocline
