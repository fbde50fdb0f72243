#include <fmt/format.h>

#include <utility>

#include "engine/text/chat_template.h"
#include "server/api/api_request.h"
#include "server/api/chat_input.h"
#include "server/api/refused_fields.h"
#include "server/api/request_fields.h"
#include "server/api/request_rules.h"

namespace thermocline {
namespace {

int ReadChatLogprobs(FieldReader& fields) {
  const bool logprobs = fields.Bool("logprobs", false);
  const auto top = static_cast<int>(ReadInt(fields, "top_logprobs", kTopLogprobsRange));
  Note(fields, CheckTopLogprobs(top, logprobs));
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

// Nothing here finds the calls in what a model writes: who offers tools would wait for a call that
// comes as plain text. As vLLM without a parser.
void RefuseTools(FieldReader& fields) {
  const Json* tools = fields.Find("tools");
  const Json* choice = fields.Find("tool_choice");
  if (tools != nullptr && tools->is_array() && !tools->empty() &&
      (choice == nullptr || *choice != "none")) {
    fields.Fail("tools",
                "the calls that a model writes are not parsed: send `tool_choice` `none`, "
                "or describe the tools in a message");
  }
}

}  // namespace

std::optional<ApiError> ParseChatRequest(const ApiContext& context, std::string_view body,
                                         ApiRequest& request) {
  std::optional<ApiError> error;
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  request.chat = true;
  CheckModel(context, fields, error);
  ReadStream(fields, error, request);
  CheckModalities(fields);

  Request prompt = ReadCommonFields(context, fields, error, ReadChatLogprobs, request);
  const int64_t max_tokens =
      ReadMaxTokens(fields, kChatMaxTokensRange, request.num_prompt_logprobs >= 0);
  const ChatTemplateInput input = ReadChatInput(fields, error);
  RefuseTools(fields);
  const bool add_bos = fields.Bool("add_special_tokens", false);
  RefuseUnread(fields, FieldScope::kAll);
  if (!error) {
    prompt.prompt = EncodeChat(context, input, add_bos, PromptLength::kOfContext, error);
  }
  if (!error) {
    Note(fields, FitLength(context.service.max_model_len(), "messages", max_tokens, prompt,
                           request.warnings));
  }
  if (error && error->param == "messages" && error->code.empty() && !prompt.prompt.empty()) {
    error->code = "context_length_exceeded";
  }
  request.prompts.push_back(std::move(prompt));
  return error;
}

}  // namespace thermocline
