#include "server/api/generation.h"

#include <spdlog/spdlog.h>

#include <limits>
#include <utility>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

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

constexpr size_t kEverywhere = std::numeric_limits<size_t>::max();

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
      request_(std::move(request)),
      names_(context.service.tokenizer(), request_.tokens_as_ids),
      writer_(std::move(writer)),
      id_((request_.chat ? "chatcmpl-" : "cmpl-") + context.new_id()),
      created_(context.unix_seconds()),
      choices_(request_.prompts.size() * num_choices()),
      prompt_logprobs_(request_.prompts.size()),
      num_open_(request_.prompts.size()) {
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
  const Request& request = request_.prompts[prompt];
  if (!choice.started && !request_.echo.empty()) {
    const EchoedPrompt& echo = request_.echo[prompt];
    if (wants_logprobs()) {
      choice.token_logprobs.AddPrompt(names_, echo, request.prompt, prompt_logprobs_[prompt],
                                      request.sampling.num_logprobs);
    }
    delta.text.insert(0, echo.text);
  }
  if (!request_.chat && wants_logprobs()) {
    choice.token_logprobs.Add(names_, delta.logprobs, delta.text_offsets);
  }
  choice.num_shown += NumCodePoints(delta.text);
  if (delta.finish_reason) {
    choice.finish_reason = delta.finish_reason;
    choice.stop_reason = delta.stop_reason;
  }
  if (!request_.stream) {
    choice.started = true;
    choice.text += delta.text;
    if (request_.return_token_ids) {
      Append(choice.token_ids, delta.token_ids);
    }
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

void Generation::AddOnce(Json& envelope) const {
  if (request_.chat && request_.return_token_ids) {
    envelope["prompt_token_ids"] = request_.prompts[0].prompt;
  }
  if (!request_.warnings.empty()) {
    envelope["warnings"] = request_.warnings;
  }
}

bool Generation::holds_logprobs() const {
  const StopParams& stop = request_.prompts[0].stop;
  return !stop.stop_strings.empty() && !stop.include_stop_string;
}

Json Generation::LogprobsOf(Choice& choice, std::span<const TokenLogprobs> chat_logprobs) const {
  if (!wants_logprobs()) {
    return nullptr;
  }
  if (request_.chat) {
    return ChatLogprobs(names_, chat_logprobs);
  }
  const bool is_end = choice.finish_reason.has_value();
  const bool takes_all = !is_end && !holds_logprobs();
  return choice.token_logprobs.Take(takes_all ? kEverywhere : choice.num_shown, is_end);
}

void Generation::StreamChunk(Json choices, const Json& usage) {
  Json chunk = Envelope();
  if (!std::exchange(has_streamed_, true)) {
    AddOnce(chunk);
  }
  chunk["choices"] = std::move(choices);
  if (request_.include_usage) {
    chunk["usage"] = usage;
  }
  writer_->Write(SseEvent(DumpJson(chunk)));
}

void Generation::StreamRole(size_t index, const Json& usage) {
  Json role = {{"index", index},
               {"delta", {{"role", "assistant"}, {"content", ""}}},
               {"logprobs", nullptr},
               {"finish_reason", nullptr}};
  StreamChunk(Json::array({std::move(role)}), usage);
}

void Generation::StreamDelta(size_t prompt, Choice& choice, size_t index, OutputDelta& delta) {
  const Json usage = request_.continuous_usage ? UsageJson(UsageSoFar()) : Json();
  const bool first = !std::exchange(choice.started, true);
  if (first && request_.chat) {
    StreamRole(index, usage);
  }
  Json logprobs = LogprobsOf(choice, delta.logprobs);
  const bool has_logprobs = request_.chat ? wants_logprobs() && !delta.logprobs.empty()
                                          : wants_logprobs() && !logprobs["tokens"].empty();
  if (delta.text.empty() && !delta.finish_reason && !has_logprobs && !request_.return_token_ids) {
    return;  // the token is part of a character, or of what may become a stop string
  }
  Json entry = Json::object();
  entry["index"] = index;
  if (!request_.chat) {
    entry["text"] = std::move(delta.text);
  } else if (entry["delta"] = Json::object(); !delta.text.empty()) {
    entry["delta"]["content"] = std::move(delta.text);
  }
  entry["logprobs"] = std::move(logprobs);
  entry["finish_reason"] = FinishReasonJson(delta.finish_reason);
  if (delta.finish_reason) {
    entry["stop_reason"] = StopReasonJson(delta.stop_reason, request_.prompts[prompt].stop);
  }
  if (request_.return_token_ids) {
    entry["token_ids"] = delta.token_ids;
    if (first && !request_.chat) {
      entry["prompt_token_ids"] = request_.prompts[prompt].prompt;
    }
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
  if (request_.return_token_ids) {
    entry["token_ids"] = std::move(choice.token_ids);
    if (!request_.chat) {
      entry["prompt_token_ids"] = request_.prompts[prompt].prompt;
    }
  }
  if (request_.num_prompt_logprobs >= 0 && !request_.chat) {
    entry["prompt_logprobs"] =
        PromptLogprobs(names_.tokenizer(), prompt_logprobs_[prompt], request_.num_prompt_logprobs);
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
  AddOnce(response);
  if (request_.num_prompt_logprobs >= 0 && request_.chat) {
    response["prompt_logprobs"] =
        PromptLogprobs(names_.tokenizer(), prompt_logprobs_[0], request_.num_prompt_logprobs);
  }
  writer_->Respond(JsonResponse(DumpJson(response)));
}

}  // namespace thermocline
