#include <fmt/format.h>

#include <limits>
#include <utility>

#include "server/api_request.h"
#include "server/chat_input.h"
#include "server/request_fields.h"

namespace thermocline {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

int ReadChatLogprobs(FieldReader& fields) {
  const bool logprobs = fields.Bool("logprobs", false);
  const int top = static_cast<int>(fields.Int("top_logprobs", 0, 0, kMaxLogprobs));
  if (top > 0 && !logprobs) {
    fields.Fail("top_logprobs", "needs `logprobs` to be true");
  }
  return logprobs ? top : -1;
}

// Output is text alone.
void CheckModalities(FieldReader& fields) {
  const Json* modalities = fields.Array("modalities", 8);
  if (modalities == nullptr) {
    return;
  }
  for (const Json& modality : *modalities) {
    if (modality != "text") {
      fields.Fail("modalities", "only `text` is supported");
    }
  }
}

}  // namespace

std::optional<ApiError> ParseChatRequest(const ApiContext& context, std::string_view body,
                                         ApiRequest& request) {
  std::optional<ApiError> error;
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  const int vocab_size = context.service.tokenizer().vocab_size();
  request.chat = true;
  CheckModel(context, fields, error);
  ReadStream(fields, error, request);
  RefuseUnsupported(fields, error);
  CheckModalities(fields);
  if (fields.Bool("echo", false)) {
    fields.Fail("echo", "is not supported for chats");
  }

  Request prompt;
  prompt.num_choices = static_cast<int>(fields.Int("n", 1, 1, kMaxChoices));
  prompt.sampling = ReadSampling(fields, error, vocab_size);
  prompt.sampling.num_logprobs = ReadChatLogprobs(fields);
  prompt.stop = ReadStop(fields, vocab_size);
  prompt.kv_fidelity = ReadKvFidelity(context, fields);
  prompt.session_id = ReadSessionId(fields);
  prompt.num_prompt_logprobs = ReadPromptLogprobs(fields, request.stream);
  request.prompt_logprobs = prompt.num_prompt_logprobs >= 0;
  const int64_t max_tokens =
      fields.Int("max_completion_tokens", fields.Int("max_tokens", -1, 1, kMaxInt), 1, kMaxInt);
  const ChatTemplateInput input = ReadChatInput(fields, error);
  const bool add_bos = fields.Bool("add_special_tokens", false);
  if (!error) {
    prompt.prompt = EncodeChat(context, input, add_bos, error);
  }
  if (!error) {
    FitLength(context, fields, "messages", max_tokens, prompt);
  }
  if (error && error->param == "messages" && error->code.empty() && !prompt.prompt.empty()) {
    error->code = "context_length_exceeded";
  }
  request.prompts.push_back(std::move(prompt));
  return error;
}

}  // namespace thermocline
