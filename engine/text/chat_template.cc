#include "engine/text/chat_template.h"

#include <charconv>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/text/template_wire.h"
#include "engine/worker/worker_pool.h"

namespace thermocline {
namespace {

constexpr char kProgram[] = "thermocline_template_worker";
constexpr int32_t kVerbatim = -1;
// Twelve short renders. A template that is too slow for these is given messages as they come.
constexpr std::chrono::seconds kMaxFormsTime{2};

// The worker's message says what "it" did.
Status OfTemplate(const Status& status) {
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
      return InvalidArgument("the chat template failed: {}", status.message());
    case StatusCode::kDeadlineExceeded:
      return DeadlineExceeded("the chat template was ended: {}", status.message());
    case StatusCode::kResourceExhausted:
      return ResourceExhausted("the chat template was ended: {}", status.message());
    default:
      return status;
  }
}

// The worker is not trusted: ranges that are none are an error.
Result<RenderedPrompt> ReadAnswer(const std::string& answer) {
  std::string_view rest = answer;
  std::string_view ranges;
  if (!TakeField(rest, ranges)) {
    return Internal("the chat template's worker gave no answer");
  }
  RenderedPrompt prompt;
  size_t last_end = 0;
  for (; ranges.size() >= 2 * sizeof(uint32_t); ranges.remove_prefix(2 * sizeof(uint32_t))) {
    uint32_t begin = 0;
    uint32_t end = 0;
    std::memcpy(&begin, ranges.data(), sizeof(begin));
    std::memcpy(&end, ranges.data() + sizeof(begin), sizeof(end));
    if (begin < last_end || end <= begin || end > rest.size()) {
      return Internal("the chat template's worker gave no answer");
    }
    prompt.plain_ranges.push_back({.begin = begin, .end = end});
    last_end = end;
  }
  prompt.text = rest;
  return prompt;
}

class JinjaTemplate final : public ChatTemplate {
 public:
  JinjaTemplate(std::unique_ptr<WorkerPool> pool, ChatTemplateLimits limits)
      : pool_(std::move(pool)), limits_(limits) {}

  void FindForms() {
    const Result<std::string> found =
        pool_->Call(std::string(1, static_cast<char>(TemplateCall::kFindForms)), kMaxFormsTime);
    if (found.ok()) {
      std::from_chars(found->data(), found->data() + found->size(), forms_);
    }
  }

  Result<RenderedPrompt> Render(const ChatTemplateInput& input) const override {
    std::string request(1, static_cast<char>(TemplateCall::kRender));
    request.reserve(64 + input.messages_json.size() + input.tools_json.size() +
                    input.kwargs_json.size());
    AppendValue(request,
                static_cast<char>((input.add_generation_prompt ? kAddGenerationPrompt : 0) |
                                  (input.continue_final_message ? kContinueFinalMessage : 0)));
    AppendValue(request, input.adapt_messages ? forms_ : kVerbatim);
    AppendField(request, input.messages_json);
    AppendField(request, input.tools_json);
    AppendField(request, input.kwargs_json);
    Result<std::string> answer = pool_->Call(request, limits_.max_time);
    if (!answer.ok()) {
      return OfTemplate(answer.status());
    }
    return ReadAnswer(*answer);
  }

  void Stop() const override { pool_->Stop(); }

 private:
  const std::unique_ptr<WorkerPool> pool_;
  const ChatTemplateLimits limits_;
  int32_t forms_ = 0;
};

}  // namespace

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(std::string_view source,
                                                           const ChatTemplateTokens& tokens,
                                                           ChatTemplateLimits limits) {
  if (source.size() > limits.max_source_bytes) {
    return InvalidArgument("the chat template has {} bytes, more than {}", source.size(),
                           limits.max_source_bytes);
  }
  std::string setup(1, static_cast<char>(TemplateCall::kCompile));
  AppendField(setup, source);
  AppendField(setup, tokens.bos_token);
  AppendField(setup, tokens.eos_token);
  AppendValue(setup, uint64_t{limits.max_output_bytes});
  Result<std::unique_ptr<WorkerPool>> pool =
      WorkerPool::Create({.program = ProgramBesideThis(kProgram), .setup = std::move(setup)});
  if (!pool.ok()) {
    return OfTemplate(pool.status());
  }
  auto made = std::make_unique<JinjaTemplate>(std::move(*pool), limits);
  made->FindForms();
  return std::unique_ptr<ChatTemplate>(std::move(made));
}

}  // namespace thermocline
