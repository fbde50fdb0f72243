#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "server/api/api_request.h"
#include "server/api/field_reader.h"

namespace thermocline {

// `messages` and what goes with them, checked: content is text, an array of text parts or, of an
// assistant, nothing. ChatTemplate brings them to the form that the model's template expects.
//
// `tools` are given to the template unless tool_choice is `none`. A tool_choice that forces a call
// is refused. Whether calls can be answered is for the endpoint to say.
ChatTemplateInput ReadChatInput(FieldReader& fields, std::optional<ApiError>& error);

// Renders and tokenises. What a message spells stays text: it cannot forge a turn. No bos is added
// but what the template writes, as HF does, unless `add_bos`. With PromptLength::kOfContext a
// prompt that cannot fit by its bytes is an error before it is tokenised.
enum class PromptLength : uint8_t { kAny, kOfContext };
std::vector<TokenId> EncodeChat(const ApiContext& context, const ChatTemplateInput& input,
                                bool add_bos, PromptLength length, std::optional<ApiError>& error);
// A raw prompt is the client's own template, so control tokens are parsed, as vLLM does.
std::vector<TokenId> EncodePrompt(const ApiContext& context, const std::string& prompt,
                                  bool add_bos);

}  // namespace thermocline
