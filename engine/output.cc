#include "engine/output.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {

ChoiceOutput::ChoiceOutput(std::shared_ptr<const Request> request, int choice,
                           const Tokenizer& tokenizer, int max_model_len)
    : request_(std::move(request)),
      tokenizer_(tokenizer),
      detokenizer_(tokenizer, /*show_special=*/!request_->skip_special_tokens),
      stop_matcher_(request_->stop.stop_strings),
      choice_(choice),
      max_tokens_(std::min(request_->stop.max_tokens,
                           max_model_len - static_cast<int>(request_->prompt.size()))) {}

OutputDelta ChoiceOutput::Add(std::span<const TokenId> tokens,
                              std::span<const TokenLogprobs> logprobs) {
  CHECK(!finished_);
  CHECK(logprobs.empty() || logprobs.size() == tokens.size());
  OutputDelta delta;
  delta.choice = choice_;
  if (!std::exchange(started_, true) && request_->echo) {
    delta.text = tokenizer_.Decode(request_->prompt, /*show_special=*/false);
  }
  if (max_tokens_ <= 0) {  // the prompt alone was asked for
    Finish(FinishReason::kLength, {}, delta);
  }
  for (size_t i = 0; i < tokens.size() && !finished_; ++i) {
    AddToken(tokens[i], delta);
    if (!logprobs.empty()) {
      delta.logprobs.push_back(logprobs[i]);
      delta.text_offsets.push_back(last_begin_);
    }
  }
  return delta;
}

void ChoiceOutput::AddToken(TokenId token, OutputDelta& delta) {
  const StopParams& stop = request_->stop;
  delta.token_ids.push_back(token);
  ++num_tokens_;
  const bool may_stop = num_tokens_ >= stop.min_tokens;
  const bool is_stop_id =
      may_stop && std::find(stop.stop_token_ids.begin(), stop.stop_token_ids.end(), token) !=
                      stop.stop_token_ids.end();
  const bool is_end = may_stop && !stop.ignore_eos && tokenizer_.IsEndOfGeneration(token);
  if (!(is_stop_id && !stop.include_stop_string) && !is_end) {
    const std::string text = detokenizer_.Add(token);
    last_begin_ = detokenizer_.last_begin();
    AddText(text, delta);
  } else {
    // It shows nothing. Half a character before it comes out whole: nothing follows.
    AddText(detokenizer_.Flush(), delta);
    last_begin_ = detokenizer_.num_given();
  }
  if (finished_) {
    return;
  }
  if (is_stop_id) {
    Finish(FinishReason::kStop, std::to_string(token), delta);
  } else if (is_end) {
    Finish(FinishReason::kStop, {}, delta);
  } else if (num_tokens_ >= max_tokens_) {
    Finish(FinishReason::kLength, {}, delta);
  }
}

void ChoiceOutput::AddText(const std::string& text, OutputDelta& delta) {
  const StopParams& stop = request_->stop;
  const std::optional<size_t> found =
      stop_matcher_.Add(text, num_tokens_ >= stop.min_tokens, stop.include_stop_string, delta.text);
  if (found) {
    finished_ = true;
    delta.finish_reason = FinishReason::kStop;
    delta.stop_reason = stop.stop_strings[*found];
  }
}

// Gives out what was held back: half a character, then what might have become a stop string.
void ChoiceOutput::Finish(FinishReason reason, std::string stop_reason, OutputDelta& delta) {
  AddText(detokenizer_.Flush(), delta);
  if (finished_) {
    return;
  }
  delta.text += stop_matcher_.TakeHeld();
  finished_ = true;
  delta.finish_reason = reason;
  delta.stop_reason = std::move(stop_reason);
}

}  // namespace thermocline
