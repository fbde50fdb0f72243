#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampling/token_logprobs.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/request.h"

namespace thermocline {

// What one or more accepted tokens add to one choice. Text is whole UTF-8 characters only, and
// never holds the start of what may yet become a stop string.
struct OutputDelta {
  int choice = 0;
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<TokenLogprobs> logprobs;  // one for each token id, if the request asked for them
  // Where each token with a logprob begins in the choice's own text, in code points. May lie behind
  // the text that was given so far, and behind its end where a stop string was cut off.
  std::vector<size_t> text_offsets;
  // The prompt's tokens from the second on, in order, if the request asked for them. They come
  // once, in the request's first delta, which is of choice 0.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::optional<FinishReason> finish_reason;  // in the last delta of a choice
  std::string stop_reason;                    // the stop string or token id that ended it, if any
};

// Receives one request's output. Called on the engine thread; posts and returns, never blocks.
// After OnDone nothing more is called and the sink is destroyed.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void OnDelta(OutputDelta delta) = 0;
  // Called once, last. Not ok: the request failed or was cancelled (kCancelled).
  virtual void OnDone(const Status& status, const Usage& usage) = 0;
};

}  // namespace thermocline
