#pragma once

#include <span>

#include "engine/sampling/token_logprobs.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"

namespace thermocline {

// The natural-log softmax of raw `logits` (before penalties and temperature, as vLLM's default
// "raw_logprobs") at `token`, and at the `num_top` most likely tokens. kInternal when the logits
// are not numbers.
Result<TokenLogprobs> ComputeLogprobs(std::span<const float> logits, TokenId token, int num_top);

}  // namespace thermocline
