#include "engine/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/sampling/counter_random.h"
#include "engine/sampling/score_scan.h"
#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
// Below this a temperature means greedy, as in vLLM: dividing by it would overflow.
constexpr float kMinTemperature = 1e-5F;

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0F || params.presence_penalty != 0.0F ||
         params.frequency_penalty != 0.0F;
}

// A nucleus of nothing is its first token, as in llama.cpp.
bool IsGreedy(const SamplingParams& params) {
  return params.temperature < kMinTemperature || params.top_p <= 0;
}

bool BansEndTokens(const Sequence& sequence) {
  return sequence.num_output() < sequence.request->stop.min_tokens;
}

double TotalOf(std::span<const ScoredToken> candidates) {
  double total = 0;
  for (const ScoredToken& candidate : candidates) {
    total += static_cast<double>(candidate.score);
  }
  return total;
}

TokenId PickByWeight(std::span<const ScoredToken> candidates, double uniform) {
  double left = uniform * TotalOf(candidates);
  for (const ScoredToken& candidate : candidates) {
    left -= static_cast<double>(candidate.score);
    if (left < 0) {
      return candidate.token;
    }
  }
  return candidates.front().token;  // rounding ate the last sliver: the first is the likeliest
}

}  // namespace

Sampler::Sampler(int vocab_size, std::vector<TokenId> end_tokens)
    : vocab_size_(static_cast<size_t>(vocab_size)),
      end_tokens_(std::move(end_tokens)),
      adjusted_(vocab_size_),
      weights_(vocab_size_),
      counts_(vocab_size_) {
  candidates_.reserve(vocab_size_);
}

Result<TokenId> Sampler::Sample(std::span<const float> logits, const Sequence& sequence) {
  CHECK(logits.size() == vocab_size_);
  const std::span<const float> scores = Adjust(logits, sequence);
  const BestScore best = FindBest(scores);
  if (!best.finite) {
    return Internal("the model's output after {} tokens is not a number or leaves no token",
                    sequence.tokens.size());
  }
  if (IsGreedy(sequence.request->sampling)) {
    return static_cast<TokenId>(best.index);
  }
  return Draw(scores, best.score, sequence);
}

std::span<const float> Sampler::Adjust(std::span<const float> logits, const Sequence& sequence) {
  const SamplingParams& params = sequence.request->sampling;
  if (!HasPenalties(params) && params.logit_bias.empty() && !BansEndTokens(sequence)) {
    return logits;
  }
  std::copy(logits.begin(), logits.end(), adjusted_.begin());
  if (HasPenalties(params)) {
    ApplyPenalties(sequence);
  }
  for (const auto& [token, bias] : params.logit_bias) {
    adjusted_[static_cast<size_t>(token)] += bias;
  }
  if (BansEndTokens(sequence)) {
    BanEndTokens(*sequence.request);
  }
  return adjusted_;
}

void Sampler::ApplyPenalties(const Sequence& sequence) {
  const SamplingParams& params = sequence.request->sampling;
  const auto repeat = [&](float& score) {
    score = score > 0 ? score / params.repetition_penalty : score * params.repetition_penalty;
  };
  const std::span<const TokenId> tokens = sequence.tokens;
  const auto num_prompt = static_cast<size_t>(sequence.num_prompt());
  for (const TokenId token : tokens.subspan(num_prompt)) {
    if (counts_[static_cast<size_t>(token)]++ == 0) {
      counted_.push_back(token);
    }
  }
  for (const TokenId token : counted_) {
    float& score = adjusted_[static_cast<size_t>(token)];
    repeat(score);
    score -= params.frequency_penalty * static_cast<float>(counts_[static_cast<size_t>(token)]);
    score -= params.presence_penalty;
  }
  if (params.repetition_penalty != 1.0F) {
    for (const TokenId token : tokens.first(num_prompt)) {
      if (counts_[static_cast<size_t>(token)]++ == 0) {
        counted_.push_back(token);
        repeat(adjusted_[static_cast<size_t>(token)]);
      }
    }
  }
  for (const TokenId token : counted_) {
    counts_[static_cast<size_t>(token)] = 0;
  }
  counted_.clear();
}

void Sampler::BanEndTokens(const Request& request) {
  for (const TokenId token : request.stop.stop_token_ids) {
    adjusted_[static_cast<size_t>(token)] = kNegativeInfinity;
  }
  if (!request.stop.ignore_eos) {
    for (const TokenId token : end_tokens_) {
      adjusted_[static_cast<size_t>(token)] = kNegativeInfinity;
    }
  }
}

TokenId Sampler::Draw(std::span<const float> scores, float max, const Sequence& sequence) {
  const SamplingParams& params = sequence.request->sampling;
  CHECK(params.seed.has_value());
  const double uniform = UniformDraw(*params.seed, static_cast<uint32_t>(sequence.choice),
                                     static_cast<uint32_t>(sequence.num_output()));
  const bool limits_tokens = params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab_size_;
  if (!limits_tokens && params.min_p <= 0 && params.top_p >= 1) {
    ExpOfScores(scores, max, params.temperature, weights_);
    return static_cast<TokenId>(IndexAtPart(weights_, uniform));
  }
  const double total =
      limits_tokens ? CollectTop(scores, max, params) : CollectLikely(scores, max, params);
  if (params.top_p < 1) {
    KeepNucleus(params.top_p, total);
  }
  return PickByWeight(candidates_, uniform);
}

double Sampler::CollectTop(std::span<const float> scores, float max, const SamplingParams& params) {
  SelectTop(scores, params.top_k, candidates_);
  for (ScoredToken& candidate : candidates_) {
    candidate.score = std::exp((candidate.score - max) / params.temperature);
  }
  std::erase_if(candidates_, [&](const ScoredToken& c) { return c.score < params.min_p; });
  return TotalOf(candidates_);
}

double Sampler::CollectLikely(std::span<const float> scores, float max,
                              const SamplingParams& params) {
  ExpOfScores(scores, max, params.temperature, weights_);
  double total = 0;
  float bar = params.min_p;
  if (bar <= 0) {
    // All tokens below this bar together weigh less than half of 1 - top_p: none of them is in the
    // nucleus.
    total = SumOfWeights(weights_);
    bar = static_cast<float>(0.5 * (1.0 - static_cast<double>(params.top_p)) * total /
                             static_cast<double>(vocab_size_));
  }
  candidates_.clear();
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] >= bar) {
      candidates_.push_back({weights_[i], static_cast<TokenId>(i)});
    }
  }
  return params.min_p > 0 ? TotalOf(candidates_) : total;
}

void Sampler::KeepNucleus(float top_p, double total) {
  const double wanted = static_cast<double>(top_p) * total;
  double mass = 0;
  size_t sorted = 0;
  while (sorted < candidates_.size()) {
    constexpr size_t kFirstSorted = 64;
    const size_t begin = sorted;
    sorted = std::min(candidates_.size(), std::max(kFirstSorted, 4 * sorted));
    std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(begin),
                      candidates_.begin() + static_cast<ptrdiff_t>(sorted), candidates_.end(),
                      RanksBefore);
    for (size_t i = begin; i < sorted; ++i) {
      mass += static_cast<double>(candidates_[i].score);
      if (mass >= wanted) {
        candidates_.resize(i + 1);
        return;
      }
    }
  }
}

}  // namespace thermocline
