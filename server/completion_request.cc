#include <fmt/format.h>

#include <limits>
#include <utility>

#include "server/api_request.h"
#include "server/chat_input.h"
#include "server/request_fields.h"

namespace thermocline {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

// One prompt: text or token ids.
struct Prompt {
  std::vector<TokenId> tokens;
  std::string text;  // for echo
};

Prompt FromTokens(const ApiContext& context, std::vector<TokenId> tokens, bool echo) {
  Prompt prompt;
  if (echo) {
    prompt.text = context.service.tokenizer().Decode(tokens, /*show_special=*/true);
  }
  prompt.tokens = std::move(tokens);
  return prompt;
}

// `prompt` is a string, an array of strings, an array of token ids or an array of such arrays.
std::vector<Prompt> ReadPrompts(const ApiContext& context, FieldReader& fields, bool echo) {
  const int vocab_size = context.service.tokenizer().vocab_size();
  const bool add_bos = fields.Bool("add_special_tokens", true);
  std::vector<Prompt> prompts;
  const Json* value = fields.Find("prompt");
  const auto add_text = [&](const Json& text) {
    const auto& string = text.get_ref<const std::string&>();
    prompts.push_back({EncodePrompt(context, string, add_bos), string});
  };
  const auto add_tokens = [&](const Json& array, std::string_view name) {
    prompts.push_back(FromTokens(context, ReadTokens(array, name, vocab_size, fields), echo));
  };
  if (value == nullptr) {
    fields.Fail("prompt", "is missing");
  } else if (value->is_string()) {
    add_text(*value);
  } else if (value->is_array() && !value->empty() && value->front().is_number()) {
    add_tokens(*value, "prompt");
  } else if (const Json* array = fields.Array("prompt", kMaxPrompts); array != nullptr) {
    if (array->empty()) {
      fields.Fail("prompt", "is empty");
    }
    for (size_t i = 0; i < array->size() && !fields.failed(); ++i) {
      const std::string name = fmt::format("prompt[{}]", i);
      if ((*array)[i].is_string()) {
        add_text((*array)[i]);
      } else if ((*array)[i].is_array()) {
        add_tokens((*array)[i], name);
      } else {
        fields.Fail(name, "must be a string or an array of token ids");
      }
    }
  }
  return prompts;
}

int ReadCompletionLogprobs(FieldReader& fields) {
  return static_cast<int>(fields.Int("logprobs", -1, 0, kMaxLogprobs));
}

}  // namespace

std::optional<ApiError> ParseCompletionRequest(const ApiContext& context, std::string_view body,
                                               ApiRequest& request) {
  std::optional<ApiError> error;
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  const int vocab_size = context.service.tokenizer().vocab_size();
  CheckModel(context, fields, error);
  ReadStream(fields, error, request);
  RefuseUnsupported(fields, error);

  Request common;
  common.num_choices = static_cast<int>(fields.Int("n", 1, 1, kMaxChoices));
  if (fields.Int("best_of", common.num_choices, 1, kMaxInt) != common.num_choices) {
    fields.Fail("best_of", "must equal `n`: choices are not ranked");
  }
  common.sampling = ReadSampling(fields, error, vocab_size);
  common.sampling.num_logprobs = ReadCompletionLogprobs(fields);
  common.stop = ReadStop(fields, vocab_size);
  common.kv_fidelity = ReadKvFidelity(context, fields);
  common.session_id = ReadSessionId(fields);
  const bool echo = fields.Bool("echo", false);
  common.num_prompt_logprobs = ReadPromptLogprobs(fields, request.stream);
  request.prompt_logprobs = common.num_prompt_logprobs >= 0;
  if (echo) {
    common.num_prompt_logprobs = std::max(common.num_prompt_logprobs, common.sampling.num_logprobs);
  }
  // Nothing to generate is a question about the prompt alone: it needs echo to have an answer.
  const int64_t max_tokens = fields.Int("max_tokens", 16, echo ? 0 : 1, kMaxInt);
  std::vector<Prompt> prompts;
  if (!error) {
    prompts = ReadPrompts(context, fields, echo);
  }
  if (prompts.size() > 1 && !common.session_id.empty()) {
    fields.Fail("session_id", "needs a request of one prompt");
  }
  for (size_t i = 0; i < prompts.size() && !error; ++i) {
    Request prompt = common;
    prompt.prompt = std::move(prompts[i].tokens);
    const bool empty = prompt.prompt.empty();
    FitLength(context, fields, "prompt", max_tokens, prompt);
    if (error && error->param == "prompt" && !empty) {
      error->code = "context_length_exceeded";
    }
    request.prompts.push_back(std::move(prompt));
    request.echo.push_back(echo ? std::move(prompts[i].text) : std::string());
  }
  return error;
}

}  // namespace thermocline
