#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/inference_service.h"
#include "scheduler/request.h"
#include "server/http/api_error.h"

namespace thermocline {

// What every endpoint shares. Outlives the server's handlers; immutable, used by all I/O threads.
struct ApiContext {
  InferenceService& service;
  std::vector<std::string> model_names;  // the first is the one that answers carry
  std::function<int64_t()> unix_seconds;
  std::function<std::string()> new_id;             // unique, hexadecimal
  int64_t created = 0;                             // when the model was loaded
  KvFidelity kv_fidelity = KvFidelity::kBalanced;  // for requests that do not say
  std::string_view kv_policy = "adaptive";         // its name, for show, as the next
  double kv_budget = 0;
};

// A prompt as its answer shows it.
struct EchoedPrompt {
  std::string text;
  bool hides_first = false;  // the first token is the bos that we added: not of the text
};

// A chat or completion request, checked and tokenised.
struct ApiRequest {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;     // in the stream's last chunk
  bool continuous_usage = false;  // in all of the stream's chunks
  int num_prompt_logprobs = -1;   // asked for as a field of its own; echo needs them too
  bool return_token_ids = false;
  bool tokens_as_ids = false;    // logprobs name tokens `token_id:17`
  std::vector<Request> prompts;  // one for a chat; each gives num_choices choices
  // What comes before each prompt's output, or empty: nothing does.
  std::vector<EchoedPrompt> echo;
  // What was not done as it was asked; the answer says so.
  std::vector<std::string> warnings;
};

// Body to request. Runs the template and the tokenizer: not on the engine's thread.
std::optional<ApiError> ParseChatRequest(const ApiContext& context, std::string_view body,
                                         ApiRequest& request);
std::optional<ApiError> ParseCompletionRequest(const ApiContext& context, std::string_view body,
                                               ApiRequest& request);

}  // namespace thermocline
