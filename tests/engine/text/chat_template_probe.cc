// Renders chat templates: one JSON case a line comes in, {"text": ...} or {"error": ...} goes out.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/text/chat_template.h"

namespace thermocline {
namespace {

using Json = nlohmann::ordered_json;  // a template shows the order of keys

Json Render(const Json& one) {
  const auto chat_template = ChatTemplate::Create(
      one["template"].get<std::string>(),
      {.bos_token = one["bos"], .eos_token = one["eos"], .control_tokens = {}});
  if (!chat_template.ok()) {
    return {{"error", chat_template.status().message()}};
  }
  ChatTemplateInput input;
  input.messages_json = one["messages"].dump();
  input.tools_json = one["tools"].is_null() ? "" : one["tools"].dump();
  input.add_generation_prompt = one["add_generation_prompt"];
  input.continue_final_message = one["continue_final_message"];
  const auto rendered = chat_template.value()->Render(input);
  if (!rendered.ok()) {
    return {{"error", rendered.status().message()}};
  }
  return {{"text", rendered.value().text}};
}

}  // namespace
}  // namespace thermocline

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << thermocline::Render(nlohmann::ordered_json::parse(line)).dump() << "\n";
  }
  return 0;
}
