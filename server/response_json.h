#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/runner.h"
#include "engine/text/tokenizer.h"
#include "scheduler/request.h"
#include "server/json.h"

namespace thermocline {

// The JSON forms of what an engine gives, as OpenAI and vLLM write them. Pure.

// A token's text; of a piece of a character, `bytes:\xe2\x80`.
std::string TokenText(const Tokenizer& tokenizer, TokenId token);

// chat: {"content": [{token, logprob, bytes, top_logprobs}]}
Json ChatLogprobs(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs);

// completions: {tokens, token_logprobs, top_logprobs, text_offset}, filled as output comes.
class CompletionLogprobs {
 public:
  // The first token of an echoed prompt: it follows nothing, so it has no probability.
  void AddFirst(const Tokenizer& tokenizer, TokenId token);
  void Add(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs);
  // What was added since the last call.
  Json Take();

 private:
  void AddToken(const Tokenizer& tokenizer, TokenId token);

  Json tokens_ = Json::array();
  Json token_logprobs_ = Json::array();
  Json top_logprobs_ = Json::array();
  Json text_offset_ = Json::array();
  size_t offset_ = 0;  // in characters, over all of the choice's text
};

// vLLM's `prompt_logprobs`: null for the first token, then {id: {logprob, rank, decoded_token}}.
Json PromptLogprobs(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs);

// OpenAI's, and ours: `kv_tokens`, by the tier that they ended in, `reused_lossy_cache`, and of the
// cached tokens the `restored_tokens`, which came from the store outside the arena.
Json UsageJson(const Usage& usage);
// Null while the choice goes on.
Json FinishReasonJson(const std::optional<FinishReason>& reason);
// vLLM's extension: the stop string, or the token id as a number, or null.
Json StopReasonJson(const std::string& stop_reason, const StopParams& stop);

// One server-sent event.
std::string SseEvent(const std::string& data);

}  // namespace thermocline
