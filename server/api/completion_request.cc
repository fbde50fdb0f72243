#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/text/tokenizer.h"
#include "server/api/api_request.h"
#include "server/api/chat_input.h"
#include "server/api/prompt_bound.h"
#include "server/api/refused_fields.h"
#include "server/api/request_fields.h"
#include "server/api/request_rules.h"

namespace thermocline {
namespace {

// One prompt: text or token ids.
struct Prompt {
  std::vector<TokenId> tokens;
  EchoedPrompt echo;
};

Prompt FromText(const ApiContext& context, const std::string& text, bool add_bos) {
  const Tokenizer& tokenizer = context.service.tokenizer();
  Prompt prompt{.tokens = EncodePrompt(context, text, add_bos), .echo = {.text = text}};
  const std::optional<TokenId> bos = tokenizer.bos();
  prompt.echo.hides_first = bos && !prompt.tokens.empty() && prompt.tokens.front() == *bos &&
                            !text.starts_with(tokenizer.TokenBytes(*bos, /*show_special=*/true));
  return prompt;
}

Prompt FromTokens(const ApiContext& context, std::vector<TokenId> tokens, bool echo) {
  Prompt prompt;
  if (echo && tokens.size() <= static_cast<size_t>(context.service.max_model_len())) {
    prompt.echo.text = context.service.tokenizer().Decode(tokens, /*show_special=*/true);
  }
  prompt.tokens = std::move(tokens);
  return prompt;
}

// `prompt` is a string, an array of strings, an array of token ids or an array of such arrays.
std::vector<Prompt> ReadPrompts(const ApiContext& context, FieldReader& fields,
                                std::optional<ApiError>& error, bool add_bos, bool echo) {
  const int vocab_size = context.service.tokenizer().vocab_size();
  std::vector<Prompt> prompts;
  const Json* value = fields.Find("prompt");
  const auto add_text = [&](const Json& text) {
    const auto& string = text.get_ref<const std::string&>();
    if (const auto too_many = TooManyBytes(context, string); too_many && !error) {
      fields.Fail("prompt", *too_many);
      error->code = "context_length_exceeded";
      return;
    }
    prompts.push_back(FromText(context, string, add_bos));
  };
  const auto add_tokens = [&](const Json& array, std::string_view name) {
    prompts.push_back(FromTokens(context, ReadTokens(array, name, vocab_size, fields), echo));
  };
  if (value->is_string()) {
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

// OpenAI's is a number; chats have true and false, and true is 1 for vLLM too.
int ReadCompletionLogprobs(FieldReader& fields) {
  if (const Json* value = fields.Find("logprobs"); value != nullptr && value->is_boolean()) {
    return value->get<bool>() ? 1 : -1;
  }
  return static_cast<int>(ReadInt(fields, "logprobs", kLogprobsRange));
}

}  // namespace

std::optional<ApiError> ParseCompletionRequest(const ApiContext& context, std::string_view body,
                                               ApiRequest& request) {
  std::optional<ApiError> error;
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  CheckModel(context, fields, error);
  ReadStream(fields, error, request);

  Request common = ReadCommonFields(context, fields, error, ReadCompletionLogprobs, request);
  const bool echo = fields.Bool("echo", false);
  if (echo) {
    common.num_prompt_logprobs = std::max(common.num_prompt_logprobs, common.sampling.num_logprobs);
  }
  const int64_t max_tokens =
      ReadMaxTokens(fields, kCompletionMaxTokensRange, echo || request.num_prompt_logprobs >= 0);
  const bool add_bos = fields.Bool("add_special_tokens", true);
  if (!fields.Has("prompt")) {
    fields.Fail("prompt", "is missing");
  }
  RefuseUnread(fields, FieldScope::kAll);
  std::vector<Prompt> prompts;
  if (!error) {
    prompts = ReadPrompts(context, fields, error, add_bos, echo);
  }
  Note(fields, CheckNumPrompts(prompts.size(), common));
  for (size_t i = 0; i < prompts.size() && !error; ++i) {
    Request prompt = common;
    prompt.prompt = std::move(prompts[i].tokens);
    const bool empty = prompt.prompt.empty();
    Note(fields, FitLength(context.service.max_model_len(), "prompt", max_tokens, prompt,
                           request.warnings));
    if (error && error->param == "prompt" && !empty) {
      error->code = "context_length_exceeded";
    }
    request.prompts.push_back(std::move(prompt));
    if (echo) {
      request.echo.push_back(std::move(prompts[i].echo));
    }
  }
  return error;
}

}  // namespace thermocline
