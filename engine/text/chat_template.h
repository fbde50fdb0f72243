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
};

// What is rendered. The JSON texts came from the client and were checked by the server.
struct ChatTemplateInput {
  std::string messages_json;  // array of {role, content, ...}; content: text, text parts or none
  std::string tools_json;     // array, or empty for none
  std::string kwargs_json;    // object of extra variables, or empty; cannot shadow ours
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the last message is left open
  // Messages are brought to the form that this template expects, which was found by trying it:
  // arguments as an object or as text, `developer` as `system`, and so on (chat_forms.py).
  bool adapt_messages = true;
};

struct ChatTemplateLimits {
  size_t max_source_bytes = size_t{1} << 20;
  size_t max_output_bytes = size_t{8} << 20;
  std::chrono::milliseconds max_time{2000};
};

// A rendered prompt. Only what the template's author wrote may be a control token. The rest, what
// came from a request in whatever way and shape, lies in `plain_ranges`: it must be encoded as the
// plain text that it is (Tokenizer::Encode). A token that is half the one and half the other is
// plain text.
struct RenderedPrompt {
  std::string text;
  std::vector<ByteRange> plain_ranges;  // ascending, disjoint
};

// A model's chat template, rendered by Jinja2 itself in an ImmutableSandboxedEnvironment. It is a
// program by whoever made the model, so it runs in worker processes (WorkerPool), from its
// compilation on: neither memory nor time beyond the limits, whatever it does. Thread-safe.
class ChatTemplate {
 public:
  // kInvalidArgument with Jinja's message and line when the source does not parse.
  static Result<std::unique_ptr<ChatTemplate>> Create(std::string_view source,
                                                      const ChatTemplateTokens& tokens,
                                                      ChatTemplateLimits limits = {});
  virtual ~ChatTemplate() = default;

  // kInvalidArgument when the template raises or an input does not suit it; kResourceExhausted and
  // kDeadlineExceeded past the limits; kUnavailable when no worker can be started.
  virtual Result<RenderedPrompt> Render(const ChatTemplateInput& input) const = 0;

  // Ends renders that run with kUnavailable, and refuses later ones so. Waits for nobody.
  virtual void Stop() const {}
};

}  // namespace thermocline
