#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/token.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

using RequestId = uint64_t;

// How one token is drawn from logits. All values are validated by the server before they get here.
struct SamplingParams {
  float temperature = 1.0F;  // 0: greedy
  int top_k = 0;             // 0: all
  float top_p = 1.0F;        // 0: greedy
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;  // over prompt and output; 1: none
  float presence_penalty = 0.0F;    // over output only, as are frequencies
  float frequency_penalty = 0.0F;
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::optional<uint64_t> seed;  // same seed, same text, whatever else runs
  int num_logprobs = -1;         // -1: none; 0: of the chosen token; k: and of the k most likely
};

// When generation ends.
struct StopParams {
  int max_tokens = 16;
  int min_tokens = 0;  // no stop of any kind before, except max_tokens
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;
  std::vector<std::string> stop_strings;
  bool include_stop_string = false;
};

// What a client asks for, immutable once submitted. Shared (shared_ptr) because the scheduler's
// sequences and the engine's output state outlive each other in either order.
struct Request {
  RequestId id = 0;
  std::string label;  // what the client calls it; only ever shown: see KvSnapshot
  // Salts the prefix cache: tenants never share pages. What parts one tenant's pages further (a
  // client's salt) is part of it.
  std::string tenant = "default";
  // Names the conversation that the prompt and its first choice's answer are, for Engine's
  // sessions. Empty: none.
  std::string session_id;
  std::vector<TokenId> prompt;  // at least one token
  int num_choices = 1;          // `n`: sequences that share the prompt's pages
  SamplingParams sampling;
  StopParams stop;
  KvFidelity kv_fidelity = KvFidelity::kBalanced;
  int num_prompt_logprobs = -1;     // as num_logprobs, for the prompt's own tokens
  bool echo = false;                // the prompt's text comes first in the output
  bool skip_special_tokens = true;  // the output's text does not show control tokens
  // Nothing is generated: pages of the prompt that a store outside the arena has are brought into
  // the prefix cache.
  bool prefetch_only = false;
};

enum class FinishReason { kStop, kLength };

// What a finished request has cost.
struct Usage {
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;    // found in the prefix cache, or restored
  int restored_prompt_tokens = 0;  // of these, from the store outside the arena
  int completion_tokens = 0;       // over all choices
  // Tokens of the cache that the choices read at their end, by the tier they were in.
  std::array<int, kNumTiers> tier_tokens{};
  bool reused_lossy = false;  // a page of the prefix cache that had cooled was read
  // What the choices' K and V took at their end: the places of their pages in the arena, each once
  // for every choice that reads it; under a policy that evicts, the tokens that are left.
  uint64_t kv_bytes_held = 0;
};

}  // namespace thermocline
