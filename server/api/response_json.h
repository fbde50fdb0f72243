#pragma once

#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/sampling/token_logprobs.h"
#include "engine/text/tokenizer.h"
#include "scheduler/request.h"
#include "server/api/api_request.h"
#include "server/http/json.h"

namespace thermocline {

// The JSON forms of what an engine gives, as OpenAI and vLLM write them. Pure.

// How answers name tokens: by their text, a piece of a character as `bytes:\xe2\x80`, or every one
// by its id, `token_id:17`, where the client asked for that. The tokenizer outlives it.
class TokenNames {
 public:
  explicit TokenNames(const Tokenizer& tokenizer, bool by_id = false)
      : tokenizer_(tokenizer), by_id_(by_id) {}

  std::string Of(TokenId token) const;
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  const Tokenizer& tokenizer_;
  bool by_id_;
};

// chat: {"content": [{token, logprob, bytes, top_logprobs}]}
Json ChatLogprobs(const TokenNames& names, std::span<const TokenLogprobs> logprobs);

// completions: {tokens, token_logprobs, top_logprobs, text_offset}, filled as output comes. An
// offset is the place in the choice's whole text, in code points, where the token's own text
// begins; a token that the text does not show has no width.
class CompletionLogprobs {
 public:
  // An echoed prompt, whose text comes first. Its first token follows nothing, so it has no
  // probability; `logprobs` are of the others. At most `num_top` alternatives each.
  void AddPrompt(const TokenNames& names, const EchoedPrompt& echo, std::span<const TokenId> prompt,
                 std::span<const TokenLogprobs> logprobs, int num_top);
  // `offsets`: OutputDelta's, of each.
  void Add(const TokenNames& names, std::span<const TokenLogprobs> logprobs,
           std::span<const size_t> offsets);
  // What was added since the last call and begins before `num_shown`, the code points of the text
  // so far; the others may yet be cut off with a stop string. `is_end`: the rest too, which is at
  // the text's end then.
  Json Take(size_t num_shown, bool is_end);
  bool empty() const { return entries_.empty(); }

 private:
  struct Entry {
    std::string token;
    Json logprob;
    Json top;
    size_t offset;
  };

  std::deque<Entry> entries_;
  size_t num_echoed_ = 0;  // code points
};

// vLLM's `prompt_logprobs`: null for the first token, then {id: {logprob, rank, decoded_token}}.
Json PromptLogprobs(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs,
                    int num_top);

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
