#include "server/generation.h"

#include <spdlog/spdlog.h>

#include <utility>

namespace thermocline {
namespace {

// One prompt's output, on its way from the engine's thread to the strand.
class GenerationSink final : public OutputSink {
 public:
  GenerationSink(std::shared_ptr<Generation> generation, WriterPtr writer, size_t prompt)
      : generation_(std::move(generation)), writer_(std::move(writer)), prompt_(prompt) {}

  void OnDelta(OutputDelta delta) override {
    writer_->Post([generation = generation_, prompt = prompt_, delta = std::move(delta)]() mutable {
      generation->OnDelta(prompt, std::move(delta));
    });
  }
  void OnDone(const Status& status, const Usage& usage) override {
    writer_->Post([generation = generation_, prompt = prompt_, status, usage] {
      generation->OnDone(prompt, status, usage);
    });
  }

 private:
  const std::shared_ptr<Generation> generation_;
  const WriterPtr writer_;
  const size_t prompt_;
};

template <typename T>
void Append(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

std::shared_ptr<Generation> Generation::Start(const ApiContext& context, ApiRequest request,
                                              WriterPtr writer) {
  auto generation = std::make_shared<Generation>(context, std::move(request), std::move(writer));
  generation->writer_->Post([generation] { generation->Submit(); });
  return generation;
}

void Generation::Abort(const Status& reason) {
  writer_->Post([self = shared_from_this(), reason] {
    self->CancelAll();
    self->Fail(FromStatus(reason));
  });
}

Generation::Generation(const ApiContext& context, ApiRequest request, WriterPtr writer)
    : context_(context),
      tokenizer_(context.service.tokenizer()),
      request_(std::move(request)),
      writer_(std::move(writer)),
      id_((request_.chat ? "chatcmpl-" : "cmpl-") + context.new_id()),
      created_(context.unix_seconds()),
      choices_(request_.prompts.size() * num_choices()),
      prompt_logprobs_(request_.prompts.size()),
      num_open_(request_.prompts.size()) {
  request_.echo.resize(request_.prompts.size());
  for (Request& prompt : request_.prompts) {
    prompt.label = id_;
  }
}

void Generation::Submit() {
  if (ended_) {
    return;
  }
  for (size_t i = 0; i < request_.prompts.size(); ++i) {
    const Result<RequestId> id = context_.service.Submit(
        request_.prompts[i], std::make_unique<GenerationSink>(shared_from_this(), writer_, i));
    if (!id.ok()) {
      CancelAll();
      Fail(FromStatus(id.status()));
      return;
    }
    ids_.push_back(*id);
  }
  // At once, if the client went while its request was parsed.
  writer_->OnDisconnect([self = shared_from_this()] {
    self->ended_ = true;
    self->CancelAll();
  });
  if (!request_.stream || ended_) {
    return;
  }
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Response-Id", id_);       // before the first token: see /v1/kv
  head.headers.emplace_back("X-Accel-Buffering", "no");  // proxies pass events on at once
  writer_->StartStream(std::move(head));
}

void Generation::CancelAll() {
  for (const RequestId id : ids_) {
    context_.service.Cancel(id);
  }
}

void Generation::Fail(const ApiError& error) {
  if (std::exchange(ended_, true)) {
    return;
  }
  if (error.http_status >= 500 && error.http_status != 503) {
    spdlog::error("{} failed: {}", id_, error.message);
  }
  if (request_.stream && !ids_.empty() && ids_.size() == request_.prompts.size()) {
    writer_->Write(SseEvent(ErrorBody(error)) + SseEvent("[DONE]"));
    writer_->EndStream();
  } else {
    writer_->Respond(ErrorResponse(error));
  }
}

void Generation::OnDelta(size_t prompt, OutputDelta delta) {
  if (ended_) {
    return;
  }
  Append(prompt_logprobs_[prompt], delta.prompt_logprobs);
  if (delta.text.empty() && delta.token_ids.empty() && !delta.finish_reason) {
    return;  // prompt logprobs alone
  }
  const size_t index = prompt * num_choices() + static_cast<size_t>(delta.choice);
  Choice& choice = choices_[index];
  num_streamed_tokens_ += static_cast<int>(delta.token_ids.size());
  Collect(prompt, choice, delta);
  if (request_.stream) {
    StreamDelta(prompt, choice, index, delta);
  }
}

void Generation::Collect(size_t prompt, Choice& choice, OutputDelta& delta) {
  const bool first = !choice.started;
  const Request& request = request_.prompts[prompt];
  if (!request_.chat && wants_logprobs()) {
    if (first && !request_.echo[prompt].empty()) {
      choice.token_logprobs.AddFirst(tokenizer_, request.prompt.front());
      choice.token_logprobs.Add(tokenizer_, prompt_logprobs_[prompt]);
    }
    choice.token_logprobs.Add(tokenizer_, delta.logprobs);
  }
  if (first) {
    delta.text.insert(0, request_.echo[prompt]);
  }
  if (delta.finish_reason) {
    choice.finish_reason = delta.finish_reason;
    choice.stop_reason = delta.stop_reason;
  }
  if (!request_.stream) {
    choice.started = true;
    choice.text += delta.text;
    if (request_.chat) {
      Append(choice.logprobs, delta.logprobs);
    }
  }
}

Json Generation::Envelope() const {
  const char* const object = !request_.chat    ? "text_completion"
                             : request_.stream ? "chat.completion.chunk"
                                               : "chat.completion";
  Json envelope = Json::object();
  envelope["id"] = id_;
  envelope["object"] = object;
  envelope["created"] = created_;
  envelope["model"] = context_.model_names.front();
  envelope["system_fingerprint"] = nullptr;
  return envelope;
}

Json Generation::LogprobsOf(Choice& choice, std::span<const TokenLogprobs> chat_logprobs) const {
  if (!wants_logprobs()) {
    return nullptr;
  }
  return request_.chat ? ChatLogprobs(tokenizer_, chat_logprobs) : choice.token_logprobs.Take();
}

void Generation::StreamChunk(Json choices, const Json& usage) {
  Json chunk = Envelope();
  chunk["choices"] = std::move(choices);
  if (request_.include_usage) {
    chunk["usage"] = usage;
  }
  writer_->Write(SseEvent(DumpJson(chunk)));
}

void Generation::StreamDelta(size_t prompt, Choice& choice, size_t index, OutputDelta& delta) {
  const Json usage = request_.continuous_usage ? UsageJson(UsageSoFar()) : Json();
  if (!std::exchange(choice.started, true) && request_.chat) {
    Json role = {{"index", index},
                 {"delta", {{"role", "assistant"}, {"content", ""}}},
                 {"logprobs", nullptr},
                 {"finish_reason", nullptr}};
    StreamChunk(Json::array({std::move(role)}), usage);
  }
  if (delta.text.empty() && !delta.finish_reason && !wants_logprobs()) {
    return;  // the token is part of a character, or of what may become a stop string
  }
  Json entry = Json::object();
  entry["index"] = index;
  if (!request_.chat) {
    entry["text"] = std::move(delta.text);
  } else if (entry["delta"] = Json::object(); !delta.text.empty()) {
    entry["delta"]["content"] = std::move(delta.text);
  }
  entry["logprobs"] = LogprobsOf(choice, delta.logprobs);
  entry["finish_reason"] = FinishReasonJson(delta.finish_reason);
  if (delta.finish_reason) {
    entry["stop_reason"] = StopReasonJson(delta.stop_reason, request_.prompts[prompt].stop);
  }
  StreamChunk(Json::array({std::move(entry)}), usage);
}

// While it runs the prompts are known; what of them was cached, and the tiers, are not.
Usage Generation::UsageSoFar() const {
  Usage usage = usage_;
  usage.prompt_tokens = 0;
  for (const Request& request : request_.prompts) {
    usage.prompt_tokens += static_cast<int>(request.prompt.size());
  }
  usage.completion_tokens = num_streamed_tokens_;
  return usage;
}

void Generation::OnDone(size_t /*prompt*/, const Status& status, const Usage& usage) {
  if (ended_) {
    return;
  }
  if (!status.ok()) {
    CancelAll();
    Fail(FromStatus(status));
    return;
  }
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_prompt_tokens += usage.cached_prompt_tokens;
  usage_.restored_prompt_tokens += usage.restored_prompt_tokens;
  usage_.completion_tokens += usage.completion_tokens;
  for (size_t tier = 0; tier < kNumTiers; ++tier) {
    usage_.tier_tokens[tier] += usage.tier_tokens[tier];
  }
  usage_.reused_lossy |= usage.reused_lossy;
  usage_.kv_bytes_held += usage.kv_bytes_held;
  if (--num_open_ > 0) {
    return;
  }
  ended_ = true;
  if (request_.stream) {
    FinishStream();
  } else {
    FinishWhole();
  }
}

void Generation::FinishStream() {
  if (request_.include_usage) {
    StreamChunk(Json::array(), UsageJson(usage_));
  }
  writer_->Write(SseEvent("[DONE]"));
  writer_->EndStream();
}

Json Generation::WholeChoice(size_t prompt, Choice& choice, size_t index) const {
  Json entry = Json::object();
  entry["index"] = index;
  if (request_.chat) {
    entry["message"]["role"] = "assistant";
    entry["message"]["content"] = std::move(choice.text);
    entry["message"]["refusal"] = nullptr;
  } else {
    entry["text"] = std::move(choice.text);
  }
  entry["logprobs"] = LogprobsOf(choice, choice.logprobs);
  entry["finish_reason"] = FinishReasonJson(choice.finish_reason);
  entry["stop_reason"] = StopReasonJson(choice.stop_reason, request_.prompts[prompt].stop);
  if (request_.prompt_logprobs && !request_.chat) {
    entry["prompt_logprobs"] = PromptLogprobs(tokenizer_, prompt_logprobs_[prompt]);
  }
  return entry;
}

void Generation::FinishWhole() {
  Json choices = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    choices.push_back(WholeChoice(i / num_choices(), choices_[i], i));
  }
  Json response = Envelope();
  response["choices"] = std::move(choices);
  response["usage"] = UsageJson(usage_);
  if (request_.prompt_logprobs && request_.chat) {
    response["prompt_logprobs"] = PromptLogprobs(tokenizer_, prompt_logprobs_[0]);
  }
  writer_->Respond(JsonResponse(DumpJson(response)));
}

}  // namespace thermocline
