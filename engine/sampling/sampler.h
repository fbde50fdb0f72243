#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling/top_tokens.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/sequence.h"

namespace thermocline {

// Draws the next token of a sequence from its logits, with the meaning and order of vLLM's
// parameters: penalties, logit_bias, the ban on stop tokens before min_tokens, temperature, min_p,
// top_k, top_p.
//
// A draw is a pure function of the logits, the sequence's tokens, its choice number and its
// parameters (the seed among them, which must be set unless greedy): what else is in the batch,
// chunking and preemption change nothing.
//
// Holds scratch memory only; used by one thread at a time.
class Sampler {
 public:
  // `end_tokens`: the model's end-of-generation tokens.
  Sampler(int vocab_size, std::vector<TokenId> end_tokens);

  // logits [vocab_size], as the model gave them. kInternal when they are not numbers.
  Result<TokenId> Sample(std::span<const float> logits, const Sequence& sequence);

  size_t vocab_size() const { return vocab_size_; }

 private:
  // The logits with penalties, biases and bans; `logits` itself when there are none.
  std::span<const float> Adjust(std::span<const float> logits, const Sequence& sequence);
  void ApplyPenalties(const Sequence& sequence);
  void BanEndTokens(const Request& request);

  TokenId Draw(std::span<const float> scores, float max, const Sequence& sequence);
  // Each leaves in candidates_ what may be drawn, as weights relative to the best token's, and says
  // what top_p is a part of: the total, with what is too unlikely to be in any nucleus.
  double CollectTop(std::span<const float> scores, float max, const SamplingParams& params);
  double CollectLikely(std::span<const float> scores, float max, const SamplingParams& params);
  void KeepNucleus(float top_p, double total);

  size_t vocab_size_;
  std::vector<TokenId> end_tokens_;
  std::vector<float> adjusted_;          // [vocab_size]
  std::vector<float> weights_;           // [vocab_size]
  std::vector<int32_t> counts_;          // [vocab_size], all zero between calls
  std::vector<TokenId> counted_;         // tokens whose count is not zero
  std::vector<ScoredToken> candidates_;  // what is left to draw from
};

}  // namespace thermocline
