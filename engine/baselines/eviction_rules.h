#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/tier_policy.h"

namespace thermocline {

// What a baseline evicts, by its paper's rule, for one layer and KV head of one sequence.
//
// StreamingLLM (arXiv 2309.17453): the first four tokens and the most recent ones stay. Tokens keep
// the positions that they were computed with, as in kvpress without re-rotation.
// H2O (arXiv 2306.14048): of those that may stay one half are the most recent, the other half have
// the most attention, summed over all queries so far and over the heads of the group.
// SnapKV (arXiv 2404.14469): once, when the prompt ends: its last 16 tokens stay, and before them
// those that these attend to most, summed over them and over the heads of the group, each with the
// most that any of the 7 tokens around it got, of those that are left.

inline constexpr int kStreamingSinks = 4;
inline constexpr int kSnapKvWindow = 16;
inline constexpr int kSnapKvPooling = 7;

// How many of `length` tokens stay under `budget`, a part of them in (0, 1]. At least one.
int NumKeptTokens(double budget, int length);

struct HeldTokens {
  std::span<const int32_t> positions;  // of the tokens still there, ascending
  std::span<const float> mass;         // as positions: attention summed; streaming needs none
  int length = 0;                      // of the sequence, with all that was evicted
  int num_kept = 0;                    // at most so many may stay
};

// The positions to evict, as many as are over num_kept. Of equals the oldest goes first.
// `policy`: one for which Evicts is true.
std::vector<int32_t> TokensToEvict(KvPolicy policy, const HeldTokens& held);

}  // namespace thermocline
