#include "server/text_endpoints.h"

#include <optional>
#include <string>
#include <vector>

#include "server/chat_input.h"
#include "server/refused_fields.h"
#include "server/request_fields.h"
#include "server/response_json.h"

namespace thermocline {

HttpResponse Tokenize(const ApiContext& context, std::string_view body) {
  std::optional<ApiError> error;
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  CheckModel(context, fields, error);
  const bool chat = fields.Has("messages");
  const bool add_bos = fields.Bool("add_special_tokens", !chat);
  const bool with_strings = fields.Bool("return_token_strs", false);
  std::vector<TokenId> tokens;
  if (chat) {
    const ChatTemplateInput input = ReadChatInput(fields, error);
    RefuseUnread(fields, FieldScope::kPrompt);
    if (!error) {
      tokens = EncodeChat(context, input, add_bos, error);
    }
  } else {
    if (!fields.Has("prompt")) {
      fields.Fail("prompt", "is missing");
    }
    const std::string prompt = fields.String("prompt", "", std::string::npos);
    RefuseUnread(fields, FieldScope::kPrompt);
    if (!error) {
      tokens = EncodePrompt(context, prompt, add_bos);
    }
  }
  if (error) {
    return ErrorResponse(*error);
  }
  Json response = Json::object();
  response["count"] = tokens.size();
  response["max_model_len"] = context.service.max_model_len();
  response["tokens"] = tokens;
  response["token_strs"] = nullptr;
  if (with_strings) {
    const TokenNames names(context.service.tokenizer());
    Json strings = Json::array();
    for (const TokenId token : tokens) {
      strings.push_back(names.Of(token));
    }
    response["token_strs"] = std::move(strings);
  }
  return JsonResponse(DumpJson(response));
}

HttpResponse Detokenize(const ApiContext& context, std::string_view body) {
  std::optional<ApiError> error;
  const Json root = ParseBody(body, error);
  FieldReader fields(root, "", error);
  CheckModel(context, fields, error);
  const Tokenizer& tokenizer = context.service.tokenizer();
  const bool skips_special = fields.Bool("skip_special_tokens", false);
  const Json* array = fields.Array("tokens", JsonLimits{}.max_values);
  if (array == nullptr) {
    fields.Fail("tokens", "is missing");
  }
  std::vector<TokenId> tokens;
  if (!error) {
    tokens = ReadTokens(*array, "tokens", tokenizer.vocab_size(), fields);
  }
  if (error) {
    return ErrorResponse(*error);
  }
  Json response = Json::object();
  response["prompt"] = tokenizer.Decode(tokens, /*show_special=*/!skips_special);
  return JsonResponse(DumpJson(response));
}

}  // namespace thermocline
