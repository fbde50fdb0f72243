#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/baselines/baseline.h"

namespace thermocline {

// What a baseline evicts, by its paper's rule, for one layer and KV head of one sequence.
//
// StreamingLLM (arXiv 2309.17453): the first four tokens and the most recent ones stay. Tokens keep
// the positions that they were computed with, as in kvpress without re-rotation.
// H2O (arXiv 2306.14048): of those that may stay one half are the most recent, the other half have
// the most attention, summed over all queries so far and over the heads of the group.
// SnapKV (arXiv 2404.14469): it evicts once, when the prompt ends. The prompt's last 16 tokens
// stay, and the earlier tokens that these attend to most, summed over the 16 and over the heads of
// the group. A token counts with the most that any of the 7 tokens around it got, among those left.

inline constexpr int kStreamingSinks = 4;
inline constexpr int kSnapKvWindow = 16;
inline constexpr int kSnapKvPooling = 7;

// How many of `length` tokens stay under `budget`, a part of them in (0, 1]. At least one.
int NumKeptTokens(double budget, int length);

struct HeldTokens {
  std::span<const int32_t> positions;  // positions of the tokens that are left, ascending
  std::span<const float> mass;  // for each position, the attention summed; streaming needs none
  int length = 0;               // the sequence's length, evicted tokens included
  int num_kept = 0;             // at most so many may stay
};

// The positions to evict, as many as are over num_kept. Among equals the oldest goes first.
std::vector<int32_t> TokensToEvict(Baseline baseline, const HeldTokens& held);

}  // namespace thermocline
