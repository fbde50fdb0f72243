#include "engine/sampling/sampler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/sampling/counter_random.h"
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

bool IsAdjusted(const Sequence& sequence) {
  const SamplingParams& params = sequence.request->sampling;
  return HasPenalties(params) || !params.logit_bias.empty() || BansEndTokens(sequence);
}

RowDraw DrawOf(const Sequence& sequence) {
  const SamplingParams& params = sequence.request->sampling;
  if (IsGreedy(params)) {
    return {};
  }
  CHECK(params.seed.has_value());
  return {.temperature = params.temperature,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .top_k = params.top_k,
          .uniform = UniformDraw(*params.seed, static_cast<uint32_t>(sequence.choice),
                                 static_cast<uint32_t>(sequence.num_output()))};
}

}  // namespace

Sampler::Sampler(int vocab_size, std::vector<TokenId> end_tokens)
    : vocab_size_(static_cast<size_t>(vocab_size)),
      end_tokens_(std::move(end_tokens)),
      adjusted_(vocab_size_),
      counts_(vocab_size_) {}

Result<TokenId> Sampler::Sample(std::span<const float> logits, const Sequence& sequence) {
  CHECK(logits.size() == vocab_size_);
  const TokenId token = drawer_.Draw(Adjust(logits, sequence), DrawOf(sequence));
  if (token < 0) {
    return NoToken(sequence);
  }
  return token;
}

std::optional<RowDraw> Sampler::PlanDraw(const Sequence& sequence) const {
  return IsAdjusted(sequence) ? std::nullopt : std::optional(DrawOf(sequence));
}

Status Sampler::NoToken(const Sequence& sequence) {
  return Internal("the model's output after {} tokens is not a number or leaves no token",
                  sequence.tokens.size());
}

std::span<const float> Sampler::Adjust(std::span<const float> logits, const Sequence& sequence) {
  const SamplingParams& params = sequence.request->sampling;
  if (!IsAdjusted(sequence)) {
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

}  // namespace thermocline
