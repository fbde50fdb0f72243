#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/output_sink.h"
#include "engine/sampling/token_logprobs.h"
#include "server/api/api_request.h"
#include "server/api/response_json.h"
#include "server/http/http_types.h"
#include "server/http/json.h"

namespace thermocline {

// One API request from its submission to its answer, streamed or whole. Lives on its connection's
// strand: the sinks of its engine requests post to it. Shared by those sinks.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  // Submits on the connection's strand. `context` outlives it.
  static std::shared_ptr<Generation> Start(const ApiContext& context, ApiRequest request,
                                           WriterPtr writer);

  Generation(const ApiContext& context, ApiRequest request, WriterPtr writer);

  // Cancels what runs and answers with an error. Any thread.
  void Abort(const Status& reason);

  // From the sinks, on the strand. `prompt` is an index into the request's prompts.
  void OnDelta(size_t prompt, OutputDelta delta);
  void OnDone(size_t prompt, const Status& status, const Usage& usage);

 private:
  struct Choice {
    std::string text;                     // not streamed
    size_t num_shown = 0;                 // code points of text so far, streamed or not
    std::vector<TokenId> token_ids;       // not streamed, when asked for
    std::vector<TokenLogprobs> logprobs;  // chat, not streamed
    CompletionLogprobs token_logprobs;    // completions
    std::optional<FinishReason> finish_reason;
    std::string stop_reason;
    bool started = false;
  };

  void Submit();
  void Fail(const ApiError& error);
  void CancelAll();
  // Adds what the delta brings to its choice; what an echoed prompt brings comes first.
  void Collect(size_t prompt, Choice& choice, OutputDelta& delta);
  void StreamDelta(size_t prompt, Choice& choice, size_t index, OutputDelta& delta);
  // The role comes before a chat's first text.
  void StreamRole(size_t index, const Json& usage);
  void StreamChunk(Json choices, const Json& usage);
  void FinishStream();
  void FinishWhole();

  Json Envelope() const;
  // What an answer says once, not with each choice.
  void AddOnce(Json& envelope) const;
  Json LogprobsOf(Choice& choice, std::span<const TokenLogprobs> chat_logprobs) const;
  Json WholeChoice(size_t prompt, Choice& choice, size_t index) const;
  Usage UsageSoFar() const;
  // What may yet be cut off behind a stop string is held back with its text.
  bool holds_logprobs() const;
  bool wants_logprobs() const { return request_.prompts[0].sampling.num_logprobs >= 0; }
  size_t num_choices() const { return static_cast<size_t>(request_.prompts[0].num_choices); }

  const ApiContext& context_;
  ApiRequest request_;
  const TokenNames names_;
  WriterPtr writer_;
  std::string id_;
  int64_t created_;

  std::vector<RequestId> ids_;
  std::vector<Choice> choices_;                              // [prompt, choice]
  std::vector<std::vector<TokenLogprobs>> prompt_logprobs_;  // [prompt, token]
  Usage usage_;                                              // the prompts that are done, together
  int num_streamed_tokens_ = 0;
  bool has_streamed_ = false;
  size_t num_open_;
  bool ended_ = false;  // answered, failed or the client has gone
};

}  // namespace thermocline
