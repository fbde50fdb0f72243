#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "kernels/sampling/row_draw.h"
#include "kernels/sampling/token_drawer.h"
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
  // How Ops::DrawTokens draws the same token from the sequence's row, whose number is to be set.
  // Nothing: the logits are to be adjusted first, so Sample has to.
  std::optional<RowDraw> PlanDraw(const Sequence& sequence) const;
  // What Sample says where a draw finds no token.
  static Status NoToken(const Sequence& sequence);

  size_t vocab_size() const { return vocab_size_; }

 private:
  // The logits with penalties, biases and bans; `logits` itself when there are none.
  std::span<const float> Adjust(std::span<const float> logits, const Sequence& sequence);
  void ApplyPenalties(const Sequence& sequence);
  void BanEndTokens(const Request& request);

  size_t vocab_size_;
  std::vector<TokenId> end_tokens_;
  std::vector<float> adjusted_;   // [vocab_size]
  std::vector<int32_t> counts_;   // [vocab_size], all zero between calls
  std::vector<TokenId> counted_;  // tokens whose count is not zero
  TokenDrawer drawer_;
};

}  // namespace thermocline
