#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/inference_service.h"
#include "engine/kv_snapshot.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "server/api/api_request.h"

namespace thermocline {

// A byte is a token; 256 is bos, 257 ends, 258 is the control token `<|ctl|>`.
class FakeTokenizer final : public Tokenizer {
 public:
  static constexpr TokenId kBos = 256;
  static constexpr TokenId kEnd = 257;
  static constexpr TokenId kControl = 258;

  FakeTokenizer() {
    for (int i = 0; i < 256; ++i) {
      bytes_[static_cast<size_t>(i)] = static_cast<char>(i);
    }
  }
  std::vector<TokenId> Encode(std::string_view text, SpecialTokens special,
                              std::span<const ByteRange> plain_ranges) const override {
    std::vector<TokenId> tokens;
    for (size_t i = 0; i < text.size(); ++i) {
      const bool plain =
          std::any_of(plain_ranges.begin(), plain_ranges.end(),
                      [i](ByteRange range) { return i >= range.begin && i < range.end; });
      if (special == SpecialTokens::kParse && !plain && text.substr(i).starts_with("<|ctl|>")) {
        tokens.push_back(kControl);
        i += 6;
      } else {
        tokens.push_back(static_cast<unsigned char>(text[i]));
      }
    }
    return tokens;
  }
  std::string_view TokenBytes(TokenId token, bool show_special) const override {
    if (token < 256) {
      return {&bytes_[static_cast<size_t>(token)], 1};
    }
    return !show_special ? "" : token == kBos ? "<s>" : token == kEnd ? "</s>" : "<|ctl|>";
  }
  int vocab_size() const override { return 300; }
  std::optional<TokenId> bos() const override { return kBos; }
  bool adds_bos() const override { return true; }
  bool IsEndOfGeneration(TokenId token) const override { return token == kEnd; }
  bool IsSpecial(TokenId token) const override { return token >= 256; }

 private:
  std::array<char, 256> bytes_{};
};

// Renders the messages' JSON itself, so that a test sees what a template would be given; raises
// when it holds the word `raise`.
class FakeTemplate final : public ChatTemplate {
 public:
  Result<RenderedPrompt> Render(const ChatTemplateInput& input) const override {
    if (input.messages_json.find("raise") != std::string::npos) {
      return InvalidArgument("the template says no");
    }
    RenderedPrompt prompt;
    prompt.text = input.messages_json + input.tools_json + input.kwargs_json +
                  (input.add_generation_prompt ? "+" : "-");
    return prompt;
  }
};

// What the fake engine does with a request.
enum class FakeMode {
  kAnswer,  // "Hel", "lo" and a stop, at once
  kHold,    // nothing until it is cancelled
  kFlood,   // text without end, from its own thread, until it is cancelled
  kFull,    // refuses: the queue is full
  kBreak,   // fails after the first delta
};

class FakeService final : public InferenceService {
 public:
  ~FakeService() override { floods_.clear(); }

  Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink) override {
    if (mode == FakeMode::kFull) {
      return ResourceExhausted("the queue is full: 4 requests wait");
    }
    const std::lock_guard lock(mutex_);
    const RequestId id = ++last_id_;
    requests_.push_back(request);
    if (mode == FakeMode::kAnswer || mode == FakeMode::kBreak) {
      Answer(request, *sink);
    } else if (mode == FakeMode::kHold) {
      held_.emplace(id, std::move(sink));
    } else {
      floods_.emplace(id, std::jthread([sink = std::move(sink)](const std::stop_token& stop) {
                        Flood(stop, *sink);
                      }));
    }
    return id;
  }
  void Cancel(RequestId id) override {
    const std::lock_guard lock(mutex_);
    if (const auto held = held_.find(id); held != held_.end()) {
      held->second->OnDone({StatusCode::kCancelled, "cancelled"}, {});
      held_.erase(held);
      ++num_cancelled;
    }
    if (const auto flood = floods_.find(id); flood != floods_.end()) {
      flood->second.request_stop();
      ++num_cancelled;
    }
  }
  bool healthy() const override { return is_healthy; }
  EngineStats stats() const override { return engine_stats; }
  void QueryKv(KvCallback callback) override {
    KvSnapshot snapshot{.stats = engine_stats, .page_tokens = 64, .sequences = sequences};
    snapshot.energy[0] = {.buckets = {0, 0, 5}, .num_unseen = 2};
    callback(std::make_shared<const KvSnapshot>(std::move(snapshot)));
  }
  void SaveSession(std::string tenant, std::string id, SessionCallback callback) override {
    AnswerSession("save", tenant, id, callback);
  }
  void RestoreSession(const std::string& tenant, const std::string& id,
                      const SessionCallback& callback) override {
    AnswerSession("restore", tenant, id, callback);
  }
  void DeleteSession(std::string tenant, std::string id, SessionCallback callback) override {
    AnswerSession("delete", tenant, id, callback);
  }
  void ListSessions(const std::string& tenant, const SessionListCallback& callback) override {
    session_calls.push_back("list " + tenant);
    if (session_error.ok()) {
      callback(std::vector<SessionInfo>{kSession});
    } else {
      callback(session_error);
    }
  }
  int max_model_len() const override { return 4096; }
  int max_requests() const override { return 40; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  const ChatTemplate& chat_template() const override { return template_; }

  std::vector<Request> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

  std::atomic<FakeMode> mode = FakeMode::kAnswer;
  std::atomic<bool> is_healthy = true;
  std::atomic<int> num_cancelled = 0;
  EngineStats engine_stats = {.scheduler = {.num_running = 3}, .arena = {.num_pages = 7}};
  std::vector<KvSnapshot::Sequence> sequences;
  std::vector<std::string> session_calls;  // "save default my-id"
  Status session_error;                    // what every call on sessions gives, when not ok

 private:
  static inline const SessionInfo kSession = {.id = "talk",
                                              .num_tokens = 100,
                                              .num_restored_tokens = 32,
                                              .num_saved_tokens = 64,
                                              .bytes = 4096,
                                              .saved_at_unix = 1700000001};
  void AnswerSession(const std::string& call, const std::string& tenant, const std::string& id,
                     const SessionCallback& callback) {
    session_calls.push_back(call + " " + tenant + " " + id);
    callback(session_error.ok() ? Result<SessionInfo>(kSession) : session_error);
  }
  // `begin`: where in the choice's text it is.
  static OutputDelta Text(int choice, const std::string& text, size_t begin = 0) {
    OutputDelta delta;
    delta.choice = choice;
    delta.text = text;
    for (const char c : text) {
      delta.token_ids.push_back(c);
      delta.logprobs.push_back({c, -0.5F, {{c, -0.5F}, {'?', -1.5F}}});
      delta.text_offsets.push_back(begin++);
    }
    return delta;
  }
  void Answer(const Request& request, OutputSink& sink) const {
    for (int choice = 0; choice < request.num_choices; ++choice) {
      OutputDelta first = Text(choice, "Hel");
      for (size_t i = 1; i < request.prompt.size() && choice == 0; ++i) {
        if (request.num_prompt_logprobs >= 0) {
          first.prompt_logprobs.push_back(
              {request.prompt[i], -1, {{request.prompt[i], -1.0F}, {'?', -2.0F}}});
        }
      }
      sink.OnDelta(std::move(first));
      if (mode == FakeMode::kBreak) {
        sink.OnDone(Internal("the device is gone"), {});
        return;
      }
      OutputDelta last = Text(choice, "lo", 3);
      last.finish_reason = FinishReason::kStop;
      sink.OnDelta(std::move(last));
    }
    sink.OnDone({}, {.prompt_tokens = static_cast<int>(request.prompt.size()),
                     .cached_prompt_tokens = 2,
                     .completion_tokens = 5 * request.num_choices,
                     .tier_tokens = {3, 2, 1},
                     .reused_lossy = request.prompt.back() == '!'});
  }
  static void Flood(const std::stop_token& stop, OutputSink& sink) {
    while (!stop.stop_requested()) {
      sink.OnDelta(Text(0, std::string(1000, 'x')));
      std::this_thread::yield();
    }
    sink.OnDone({StatusCode::kCancelled, "cancelled"}, {});
  }

  const FakeTokenizer tokenizer_;
  const FakeTemplate template_{};
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  RequestId last_id_ = 0;
  std::vector<Request> requests_;
  std::map<RequestId, std::unique_ptr<OutputSink>> held_;
  std::map<RequestId, std::jthread> floods_;
};

inline ApiContext FakeContext(InferenceService& service) {
  return {.service = service,
          .model_names = {"fake", "other-name"},
          .unix_seconds = [] { return int64_t{1700000000}; },
          .new_id = [] { return std::string("42"); },
          .created = 1600000000};
}

}  // namespace thermocline
