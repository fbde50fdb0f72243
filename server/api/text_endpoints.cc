#include "server/api/text_endpoints.h"

#include <fmt/format.h>

#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/chat_template.h"
#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"
#include "server/api/chat_input.h"
#include "server/api/refused_fields.h"
#include "server/api/request_fields.h"
#include "server/api/response_json.h"
#include "server/http/json.h"

namespace thermocline {
namespace {

constexpr size_t kPieceBytes = size_t{32} << 10;

// Tokens take a tenth of the memory that their JSON does.
class TokenizeAnswer {
 public:
  TokenizeAnswer(const ApiContext& context, std::vector<TokenId> tokens, bool with_strings)
      : context_(context), tokens_(std::move(tokens)), with_strings_(with_strings) {}

  std::string operator()() {
    std::string piece;
    if (part_ == Part::kHead) {
      piece = fmt::format(R"({{"count":{},"max_model_len":{},"tokens":[)", tokens_.size(),
                          context_.service.max_model_len());
      part_ = Part::kTokens;
    }
    if (part_ == Part::kTokens && AddTokens(piece)) {
      piece += with_strings_ ? R"(],"token_strs":[)" : R"(],"token_strs":null})";
      part_ = with_strings_ ? Part::kStrings : Part::kDone;
    }
    if (part_ == Part::kStrings && AddStrings(piece)) {
      piece += "]}";
      part_ = Part::kDone;
    }
    return piece;
  }

 private:
  enum class Part { kHead, kTokens, kStrings, kDone };

  // True once all are there; then the next list begins.
  bool AddTokens(std::string& piece) {
    for (; at_ < tokens_.size() && piece.size() < kPieceBytes; ++at_) {
      fmt::format_to(std::back_inserter(piece), "{}{}", at_ == 0 ? "" : ",", tokens_[at_]);
    }
    return at_ == tokens_.size() && std::exchange(at_, 0) == tokens_.size();
  }
  bool AddStrings(std::string& piece) {
    for (; at_ < tokens_.size() && piece.size() < kPieceBytes; ++at_) {
      piece += at_ == 0 ? "" : ",";
      piece += DumpJson(TokenNames(context_.service.tokenizer()).Of(tokens_[at_]));
    }
    return at_ == tokens_.size();
  }

  const ApiContext& context_;
  std::vector<TokenId> tokens_;
  bool with_strings_;
  Part part_ = Part::kHead;
  size_t at_ = 0;
};

// A token may have a hundred bytes: text is made as it is read.
class DetokenizeAnswer {
 public:
  DetokenizeAnswer(const Tokenizer& tokenizer, std::vector<TokenId> tokens, bool show_special)
      : tokens_(std::move(tokens)), detokenizer_(tokenizer, show_special) {}

  std::string operator()() {
    if (done_) {
      return {};
    }
    std::string text;
    const bool first = at_ == 0;
    for (; at_ < tokens_.size() && text.size() < kPieceBytes; ++at_) {
      text += detokenizer_.Add(tokens_[at_]);
    }
    done_ = at_ == tokens_.size();
    text += done_ ? detokenizer_.Flush() : "";
    const std::string quoted = DumpJson(text);
    return (first ? R"({"prompt":")" : "") + quoted.substr(1, quoted.size() - 2) +
           (done_ ? R"("})" : "");
  }

 private:
  std::vector<TokenId> tokens_;
  StreamingDetokenizer detokenizer_;
  size_t at_ = 0;
  bool done_ = false;
};

}  // namespace

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
      tokens = EncodeChat(context, input, add_bos, PromptLength::kAny, error);
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
  const size_t held_bytes = tokens.capacity() * sizeof(TokenId);
  return PiecedJsonResponse(TokenizeAnswer(context, std::move(tokens), with_strings), held_bytes);
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
  const size_t held_bytes = tokens.capacity() * sizeof(TokenId);
  return PiecedJsonResponse(DetokenizeAnswer(tokenizer, std::move(tokens), !skips_special),
                            held_bytes);
}

}  // namespace thermocline
