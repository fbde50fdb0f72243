#include "server/api/chat_input.h"

#include <fmt/format.h>

#include <utility>

#include "engine/text/tokenizer.h"
#include "server/api/prompt_bound.h"

namespace thermocline {
namespace {

constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxTools = 128;
constexpr size_t kMaxRoleBytes = 64;

// An array of content parts, each as {"type": "text", "text": ...}.
Json ReadParts(const Json& parts, FieldReader& message, std::optional<ApiError>& error) {
  Json read = Json::array();
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string name = fmt::format("content[{}]", i);
    if (!parts[i].is_object()) {
      message.Fail(name, "must be an object with a `type`");
      return {};
    }
    FieldReader part(parts[i], message.PathOf(name), error);
    const std::string type = part.String("type", "", 64);
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
      part.Fail("type", fmt::format("`{}` is not supported: this model reads text only", type));
      return {};
    }
    const char* const field = type == "refusal" ? "refusal" : "text";
    if (!part.Has(field)) {
      part.Fail(field, "is missing");
      return {};
    }
    read.push_back({{"type", "text"}, {"text", part.String(field, "", std::string::npos)}});
  }
  return read;
}

Json ReadMessage(const Json& value, const std::string& path, std::optional<ApiError>& error) {
  FieldReader message(value, path, error);
  const std::string role = message.String("role", "", kMaxRoleBytes);
  if (role.empty()) {
    message.Fail("role", "is missing");
  }
  Json result = value;
  const Json* content = message.Find("content");
  if (content == nullptr) {
    if (role != "assistant") {
      message.Fail("content", "is missing");
    }
  } else if (content->is_array()) {
    result["content"] = ReadParts(*content, message, error);
  } else if (!content->is_string()) {
    message.Fail("content", fmt::format("must be a string or an array of text parts, not a {}",
                                        KindOf(*content)));
  }
  return result;
}

void ReadTools(FieldReader& fields, std::optional<ApiError>& error, ChatTemplateInput& input) {
  const Json* tools = fields.Array("tools", kMaxTools);
  bool wanted = tools != nullptr && !tools->empty();
  if (const Json* choice = fields.Find("tool_choice"); choice != nullptr) {
    if (*choice == "none") {
      wanted = false;
    } else if (*choice != "auto") {
      fields.Fail("tool_choice", "only `auto` and `none` are supported: calls cannot be forced");
    }
  }
  if (const Json* choice = fields.Find("function_call");
      choice != nullptr && *choice != "none" && *choice != "auto") {
    fields.Fail("function_call", "is not supported");
  }
  if (!wanted) {
    return;
  }
  for (size_t i = 0; i < tools->size(); ++i) {
    const Json& tool = (*tools)[i];
    const std::string path = fmt::format("tools[{}]", i);
    if (!tool.is_object()) {
      fields.Fail(path, "must be an object");
      return;
    }
    FieldReader reader(tool, path, error);
    if (reader.String("type", "function", 64) != "function" ||
        reader.Object("function") == nullptr) {
      reader.Fail("function", "is missing: only tools of type `function` are supported");
      return;
    }
  }
  input.tools_json = DumpJson(*tools);
}

void AddBos(const Tokenizer& tokenizer, std::vector<TokenId>& tokens) {
  const std::optional<TokenId> bos = tokenizer.bos();
  if (tokenizer.adds_bos() && bos && (tokens.empty() || tokens.front() != *bos)) {
    tokens.insert(tokens.begin(), *bos);
  }
}

}  // namespace

ChatTemplateInput ReadChatInput(FieldReader& fields, std::optional<ApiError>& error) {
  ChatTemplateInput input;
  const Json* messages = fields.Array("messages", kMaxMessages);
  if (messages == nullptr || messages->empty()) {
    fields.Fail("messages", "must be an array of at least one message");
    return input;
  }
  Json checked = Json::array();
  for (size_t i = 0; i < messages->size() && !error; ++i) {
    const std::string path = fmt::format("messages[{}]", i);
    if (!(*messages)[i].is_object()) {
      fields.Fail(path, "must be an object with `role` and `content`");
      break;
    }
    checked.push_back(ReadMessage((*messages)[i], path, error));
  }
  input.messages_json = DumpJson(checked);
  ReadTools(fields, error, input);
  if (const Json* kwargs = fields.Object("chat_template_kwargs"); kwargs != nullptr) {
    input.kwargs_json = DumpJson(*kwargs);
  }
  input.add_generation_prompt = fields.Bool("add_generation_prompt", true);
  input.continue_final_message = fields.Bool("continue_final_message", false);
  if (input.continue_final_message) {
    if (fields.Has("add_generation_prompt") && input.add_generation_prompt) {
      fields.Fail("continue_final_message", "excludes `add_generation_prompt`");
    }
    input.add_generation_prompt = false;
  }
  return input;
}

std::vector<TokenId> EncodeChat(const ApiContext& context, const ChatTemplateInput& input,
                                bool add_bos, PromptLength length, std::optional<ApiError>& error) {
  const Result<RenderedPrompt> prompt = context.service.chat_template().Render(input);
  if (!prompt.ok()) {
    error = FromStatus(prompt.status());
    // Whatever stops a template is in what it was given: its limits are the request's fault too.
    if (prompt.status().code() != StatusCode::kInternal &&
        prompt.status().code() != StatusCode::kUnavailable) {
      error->http_status = 400;
      error->retry_after_seconds = 0;
    }
    error->param = "messages";
    error->code = "chat_template_error";
    return {};
  }
  if (length == PromptLength::kOfContext) {
    if (const auto too_many = TooManyBytes(context, prompt->text)) {
      error = InvalidField("messages", *too_many);
      error->code = "context_length_exceeded";
      return {};
    }
  }
  std::vector<TokenId> tokens =
      context.service.tokenizer().Encode(prompt->text, SpecialTokens::kParse, prompt->plain_ranges);
  if (add_bos) {
    AddBos(context.service.tokenizer(), tokens);
  }
  return tokens;
}

std::vector<TokenId> EncodePrompt(const ApiContext& context, const std::string& prompt,
                                  bool add_bos) {
  std::vector<TokenId> tokens = context.service.tokenizer().Encode(prompt, SpecialTokens::kParse);
  if (add_bos) {
    AddBos(context.service.tokenizer(), tokens);
  }
  return tokens;
}

}  // namespace thermocline
