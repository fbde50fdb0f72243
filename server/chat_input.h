#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "server/api_request.h"
#include "server/field_reader.h"

namespace thermocline {

// `messages` and what goes with them, checked and brought to the one form that templates know:
// content is a string (text parts are joined by newlines), arguments of tool calls are objects.
//
// `tools` are given to the template unless tool_choice is `none`. A tool_choice that forces a call
// is refused. Whether calls can be answered is for the endpoint to say.
ChatTemplateInput ReadChatInput(FieldReader& fields, std::optional<ApiError>& error);

// Renders and tokenises. What a message spells stays text: it cannot forge a turn. No bos is added
// but what the template writes, as HF does, unless `add_bos`.
std::vector<TokenId> EncodeChat(const ApiContext& context, const ChatTemplateInput& input,
                                bool add_bos, std::optional<ApiError>& error);
// A raw prompt is the client's own template, so control tokens are parsed, as vLLM does.
std::vector<TokenId> EncodePrompt(const ApiContext& context, const std::string& prompt,
                                  bool add_bos);

}  // namespace thermocline
