#include "server/cli/chat_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "engine/engine.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "server/cli/chat_console.h"
#include "server/cli/load_report.h"
#include "server/http/json.h"

namespace thermocline {
namespace {

using Clock = std::chrono::steady_clock;

class AnswerSink final : public OutputSink {
 public:
  explicit AnswerSink(std::shared_ptr<AnswerQueue> queue) : queue_(std::move(queue)) {}
  void OnDelta(OutputDelta delta) override { queue_->Add(delta); }
  void OnDone(const Status& status, const Usage& /*usage*/) override { queue_->Finish(status); }

 private:
  // Shared: the console may leave before the engine has ended the request.
  const std::shared_ptr<AnswerQueue> queue_;
};

// The conversation so far, and how its next answer is made.
class Conversation {
 public:
  Conversation(const ChatOptions& options, Engine& engine, ChatConsole& console)
      : options_(options), engine_(engine), console_(console) {
    Reset();
  }

  void Reset() {
    messages_ = Json::array();
    if (!options_.system_prompt.empty()) {
      Add("system", options_.system_prompt);
    }
  }

  // Prints the answer to `line` as it comes. On an error the line is taken back.
  Status Answer(const std::string& line) {
    Add("user", line);
    Result<std::string> answer = Generate();
    if (!answer.ok()) {
      messages_.erase(messages_.size() - 1);
      return answer.status();
    }
    Add("assistant", *answer);
    return {};
  }

 private:
  void Add(const char* role, const std::string& content) {
    messages_.push_back(Json{{"role", role}, {"content", content}});
  }

  Result<Request> MakeRequest() const {
    ChatTemplateInput input;
    input.messages_json = DumpJson(messages_);
    const Result<RenderedPrompt> prompt = engine_.chat_template().Render(input);
    if (!prompt.ok()) {
      return prompt.status();
    }
    Request request;
    request.prompt =
        engine_.tokenizer().Encode(prompt->text, SpecialTokens::kParse, prompt->plain_ranges);
    const int room = engine_.budget().max_model_len - static_cast<int>(request.prompt.size());
    if (room <= 0) {
      return ResourceExhausted("the conversation fills the context of {} tokens: /new starts over",
                               engine_.budget().max_model_len);
    }
    request.stop.max_tokens = options_.max_tokens > 0 ? std::min(options_.max_tokens, room) : room;
    request.sampling.temperature = options_.temperature;
    request.sampling.top_p = options_.top_p;
    request.sampling.seed = options_.seed;
    request.kv_fidelity = options_.engine.kv_fidelity;
    return request;
  }

  Result<std::string> Generate() {
    Result<Request> request = MakeRequest();
    if (!request.ok()) {
      return request.status();
    }
    const auto queue = std::make_shared<AnswerQueue>();
    const Clock::time_point start = Clock::now();
    const Result<RequestId> id =
        engine_.Submit(std::move(request).value(), std::make_unique<AnswerSink>(queue));
    if (!id.ok()) {
      return id.status();
    }
    std::string text;
    int num_tokens = 0;
    Clock::time_point first_token = start;
    AnswerQueue::Batch batch;
    while (!batch.done) {
      if (!console_.WaitFor(queue->readable_fd())) {
        console_.TakeInterrupt();
        engine_.Cancel(*id);
        continue;
      }
      batch = queue->Take();
      if (num_tokens == 0 && batch.num_tokens > 0) {
        first_token = Clock::now();
      }
      num_tokens += batch.num_tokens;
      text += batch.text;
      fmt::print("{}", batch.text);
      std::fflush(stdout);
    }
    fmt::print("\n");
    if (!batch.status.ok() && batch.status.code() != StatusCode::kCancelled) {
      return batch.status;
    }
    PrintSpeed(num_tokens, first_token - start, Clock::now() - first_token);
    return text;
  }

  // Decoding alone, from the first token on: the prompt's time is told apart.
  static void PrintSpeed(int num_tokens, std::chrono::duration<double> prompt,
                         std::chrono::duration<double> decode) {
    const double speed = decode.count() > 0 ? (num_tokens - 1) / decode.count() : 0;
    const bool terminal = isatty(STDERR_FILENO) == 1;
    fmt::print(stderr, "{}[{} tokens, {:.1f} tokens/s, first after {:.2f} s]{}\n",
               terminal ? "\x1b[2m" : "", num_tokens, std::max(speed, 0.0), prompt.count(),
               terminal ? "\x1b[0m" : "");
  }

  const ChatOptions& options_;
  Engine& engine_;
  ChatConsole& console_;
  Json messages_;
};

}  // namespace

int RunChat(const ChatOptions& options) {
  ChatConsole console;
  const Result<std::unique_ptr<Engine>> engine = LoadEngine(options.engine);
  if (!engine.ok()) {
    spdlog::error("{}", engine.status().message());
    return EXIT_FAILURE;
  }
  if (console.TakeInterrupt()) {
    return EXIT_FAILURE;
  }
  Conversation conversation(options, **engine, console);
  fmt::print(stderr, "Ctrl-C stops an answer; /new starts over; /exit or Ctrl-D leaves.\n");
  while (const std::optional<std::string> line = console.ReadLine("> ")) {
    if (*line == "/exit" || *line == "/quit") {
      break;
    }
    if (*line == "/new") {
      conversation.Reset();
      fmt::print(stderr, "A new conversation.\n");
      continue;
    }
    if (line->find_first_not_of(" \t\r") == std::string::npos) {
      continue;
    }
    if (ValidUtf8Prefix(*line) != line->size()) {
      fmt::print(stderr, "That line is not UTF-8.\n");
      continue;
    }
    const Status status = conversation.Answer(*line);
    if (!status.ok()) {
      fmt::print(stderr, "{}\n", status.message());
    }
  }
  if (isatty(STDIN_FILENO) == 1) {
    fmt::print("\n");
  }
  return EXIT_SUCCESS;
}

}  // namespace thermocline
