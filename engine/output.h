#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/output_sink.h"
#include "engine/sampling/token_logprobs.h"
#include "engine/stop_matcher.h"
#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/token.h"
#include "scheduler/request.h"

namespace thermocline {

// Turns the accepted tokens of one choice into text for the client, and decides when it ends.
//
// An end token and a stop token id count as output (ids, logprobs, usage) but give no text; a stop
// token id gives its text when include_stop_string. A stop string ends the text before it, or after
// it when include_stop_string; the ids keep the token that completed it.
// Before min_tokens nothing ends a choice but max_tokens and the length of the model.
class ChoiceOutput {
 public:
  // `tokenizer` outlives it. `request` is shared for the reason that Request gives.
  ChoiceOutput(std::shared_ptr<const Request> request, int choice, const Tokenizer& tokenizer,
               int max_model_len);

  // The next accepted tokens and their logprobs (as many, or none at all). What follows the token
  // that ends the choice is ignored. Only while not finished().
  OutputDelta Add(std::span<const TokenId> tokens, std::span<const TokenLogprobs> logprobs);

  bool finished() const { return finished_; }
  int num_tokens() const { return num_tokens_; }

 private:
  void AddToken(TokenId token, OutputDelta& delta);
  void Finish(FinishReason reason, std::string stop_reason, OutputDelta& delta);
  void AddText(const std::string& text, OutputDelta& delta);

  std::shared_ptr<const Request> request_;
  const Tokenizer& tokenizer_;
  StreamingDetokenizer detokenizer_;
  StopMatcher stop_matcher_;
  int choice_;
  int max_tokens_;  // this choice's, whichever limit is the lower
  int num_tokens_ = 0;
  size_t last_begin_ = 0;  // where the last token begins, in the text before any is cut off
  bool started_ = false;
  bool finished_ = false;
};

}  // namespace thermocline
