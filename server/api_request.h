#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/request.h"
#include "server/api_error.h"
#include "server/inference_service.h"

namespace thermocline {

// What every endpoint shares. Outlives the server's handlers; immutable, used by all I/O threads.
struct ApiContext {
  InferenceService& service;
  std::vector<std::string> model_names;  // the first is the one that answers carry
  std::function<int64_t()> unix_seconds;
  std::function<std::string()> new_id;             // unique, hexadecimal
  int64_t created = 0;                             // when the model was loaded
  KvFidelity kv_fidelity = KvFidelity::kBalanced;  // of requests that do not say
  KvPolicy kv_policy = KvPolicy::kAdaptive;        // for show, as the next
  double kv_budget = 0;
};

// A chat or completion request, checked and tokenised.
struct ApiRequest {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;     // in the stream's last chunk
  bool continuous_usage = false;  // in all of the stream's chunks
  bool prompt_logprobs = false;   // as a field of its own; echo needs them too
  std::vector<Request> prompts;   // one for a chat; each gives num_choices choices
  std::vector<std::string> echo;  // what comes before each prompt's output; empty: nothing
};

// One request's caps: what a small body may ask for.
inline constexpr int kMaxChoices = 8;    // n
inline constexpr int kMaxPrompts = 64;   // of a completion request
inline constexpr int kMaxLogprobs = 20;  // alternatives per token
inline constexpr int kMaxStops = 16;     // strings
inline constexpr int kMaxStopIds = 128;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr size_t kMaxStopBytes = 1024;

// Body to request. Runs the template and the tokenizer: not on the engine's thread.
std::optional<ApiError> ParseChatRequest(const ApiContext& context, std::string_view body,
                                         ApiRequest& request);
std::optional<ApiError> ParseCompletionRequest(const ApiContext& context, std::string_view body,
                                               ApiRequest& request);

}  // namespace thermocline
