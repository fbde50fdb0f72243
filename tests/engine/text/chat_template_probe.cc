// Renders chat templates: one JSON case a line comes in, {"text": ...} or {"error": ...} goes out.
// Cases of one template come one after the other.

#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/text/chat_template.h"

namespace thermocline {
namespace {

using Json = nlohmann::ordered_json;  // a template shows the order of keys

using Templates = std::map<std::string, Result<std::unique_ptr<ChatTemplate>>>;

Json Render(const Json& one, Templates& templates) {
  const auto source = one["template"].get<std::string>();
  auto found = templates.find(source);
  if (found == templates.end()) {
    templates.clear();  // each has processes of its own
    found = templates
                .emplace(source, ChatTemplate::Create(
                                     source, {.bos_token = one["bos"], .eos_token = one["eos"]}))
                .first;
  }
  const auto& chat_template = found->second;
  if (!chat_template.ok()) {
    return {{"error", chat_template.status().message()}};
  }
  ChatTemplateInput input;
  input.messages_json = one["messages"].dump();
  input.tools_json = one["tools"].is_null() ? "" : one["tools"].dump();
  input.add_generation_prompt = one["add_generation_prompt"];
  input.continue_final_message = one["continue_final_message"];
  input.adapt_messages = one.value("adapt_messages", false);
  const auto rendered = chat_template.value()->Render(input);
  if (!rendered.ok()) {
    return {{"error", rendered.status().message()}};
  }
  // The text again, with a dot for each byte that no control token may have.
  std::string trusted = rendered->text;
  for (const ByteRange& range : rendered->plain_ranges) {
    trusted.replace(range.begin, range.end - range.begin, range.end - range.begin, '.');
  }
  Json answer{{"text", rendered->text}};
  if (one.value("show_trusted", false)) {
    answer["trusted"] = trusted;
  }
  return answer;
}

}  // namespace
}  // namespace thermocline

int main() {
  thermocline::Templates templates;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << thermocline::Render(nlohmann::ordered_json::parse(line), templates).dump() << "\n";
  }
  return 0;
}
