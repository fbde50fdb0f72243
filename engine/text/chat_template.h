#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "kernels/base/status.h"

namespace thermocline {

// What the vocabulary tells a template.
struct ChatTemplateTokens {
  std::string bos_token;
  std::string eos_token;
  std::vector<std::string> control_tokens;  // every control token's spelling
};

// What is rendered. JSON texts, as they came from the client and were checked by the server.
struct ChatTemplateInput {
  std::string messages_json;  // array of {role, content, ...}
  std::string tools_json;     // array, or empty for none
  std::string kwargs_json;    // object of extra variables, or empty; cannot shadow ours
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the last message is left open
};

struct ChatTemplateLimits {
  size_t max_output_bytes = size_t{8} << 20;
  std::chrono::milliseconds max_time{2000};
};

// A rendered prompt. Text that came out of a message and spells a control token lies in
// `plain_ranges`: it must be encoded as the plain text that it is (Tokenizer::Encode).
struct RenderedPrompt {
  std::string text;
  std::vector<ByteRange> plain_ranges;  // ascending, disjoint
};

// A model's chat template, rendered by Jinja2 itself in an ImmutableSandboxedEnvironment inside the
// one embedded CPython interpreter. Thread-safe; renders one at a time.
class ChatTemplate {
 public:
  // kInvalidArgument with Jinja's message and line when the source does not parse.
  static Result<std::unique_ptr<ChatTemplate>> Create(std::string_view source,
                                                      ChatTemplateTokens tokens,
                                                      ChatTemplateLimits limits = {});
  virtual ~ChatTemplate() = default;

  // kInvalidArgument when the template raises or an input does not suit it; kResourceExhausted and
  // kDeadlineExceeded past the limits.
  virtual Result<RenderedPrompt> Render(const ChatTemplateInput& input) const = 0;
};

}  // namespace thermocline
