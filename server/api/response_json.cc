#include "server/api/response_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "engine/text/detokenizer.h"
#include "engine/text/utf8.h"
#include "kernels/base/check.h"
#include "server/api/kv_names.h"

namespace thermocline {
namespace {

// JSON has no infinity; this is what OpenAI and vLLM write for "never".
constexpr double kNever = -9999;

double Finite(float logprob) {
  return std::isfinite(logprob) ? std::max(static_cast<double>(logprob), kNever) : kNever;
}

Json ChatToken(const TokenNames& names, TokenId token, float logprob) {
  Json bytes = Json::array();
  for (const char c : names.tokenizer().TokenBytes(token, /*show_special=*/true)) {
    bytes.push_back(static_cast<uint8_t>(c));
  }
  return {{"token", names.Of(token)}, {"logprob", Finite(logprob)}, {"bytes", std::move(bytes)}};
}

std::span<const std::pair<TokenId, float>> TopOf(const TokenLogprobs& logprobs, int num_top) {
  return std::span(logprobs.top).first(std::min(logprobs.top.size(), static_cast<size_t>(num_top)));
}

// The completions' form: by name. As OpenAI: the token itself is there even when it is none of the
// most likely.
Json NamedTop(const TokenNames& names, const TokenLogprobs& token, int num_top) {
  Json top = Json::object();
  for (const auto& [id, logprob] : TopOf(token, num_top)) {
    top[names.Of(id)] = Finite(logprob);
  }
  top[names.Of(token.token)] = Finite(token.logprob);
  return top;
}

}  // namespace

std::string TokenNames::Of(TokenId token) const {
  if (by_id_) {
    return fmt::format("token_id:{}", token);
  }
  const std::string_view bytes = tokenizer_.TokenBytes(token, /*show_special=*/true);
  if (ValidUtf8Prefix(bytes) == bytes.size()) {
    return std::string(bytes);
  }
  std::string text = "bytes:";
  for (const char c : bytes) {
    text += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  }
  return text;
}

Json ChatLogprobs(const TokenNames& names, std::span<const TokenLogprobs> logprobs) {
  Json content = Json::array();
  for (const TokenLogprobs& token : logprobs) {
    Json entry = ChatToken(names, token.token, token.logprob);
    Json top = Json::array();
    for (const auto& [id, logprob] : token.top) {
      top.push_back(ChatToken(names, id, logprob));
    }
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  Json result = Json::object();
  result["content"] = std::move(content);
  result["refusal"] = nullptr;
  return result;
}

void CompletionLogprobs::AddPrompt(const TokenNames& names, const EchoedPrompt& echo,
                                   std::span<const TokenId> prompt,
                                   std::span<const TokenLogprobs> logprobs, int num_top) {
  // A normalised prompt may be shorter or longer in tokens than in the text that came.
  num_echoed_ = NumCodePoints(echo.text);
  StreamingDetokenizer detokenizer(names.tokenizer(), /*show_special=*/true);
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (i > 0 || !echo.hides_first) {
      (void)detokenizer.Add(prompt[i]);
    }
    Entry entry{.token = names.Of(prompt[i]),
                .logprob = nullptr,
                .top = nullptr,
                .offset = std::min(detokenizer.last_begin(), num_echoed_)};
    if (i > 0 && i <= logprobs.size()) {
      entry.logprob = Finite(logprobs[i - 1].logprob);
      entry.top = NamedTop(names, logprobs[i - 1], num_top);
    }
    entries_.push_back(std::move(entry));
  }
}

void CompletionLogprobs::Add(const TokenNames& names, std::span<const TokenLogprobs> logprobs,
                             std::span<const size_t> offsets) {
  CHECK(offsets.size() == logprobs.size());
  for (size_t i = 0; i < logprobs.size(); ++i) {
    entries_.push_back(
        {.token = names.Of(logprobs[i].token),
         .logprob = Finite(logprobs[i].logprob),
         .top = NamedTop(names, logprobs[i], static_cast<int>(logprobs[i].top.size())),
         .offset = num_echoed_ + offsets[i]});
  }
}

Json CompletionLogprobs::Take(size_t num_shown, bool is_end) {
  Json text_offset = Json::array();
  Json token_logprobs = Json::array();
  Json tokens = Json::array();
  Json top_logprobs = Json::array();
  while (!entries_.empty() && (is_end || entries_.front().offset < num_shown)) {
    Entry& entry = entries_.front();
    text_offset.push_back(std::min(entry.offset, num_shown));
    token_logprobs.push_back(std::move(entry.logprob));
    tokens.push_back(std::move(entry.token));
    top_logprobs.push_back(std::move(entry.top));
    entries_.pop_front();
  }
  Json result = Json::object();
  result["text_offset"] = std::move(text_offset);
  result["token_logprobs"] = std::move(token_logprobs);
  result["tokens"] = std::move(tokens);
  result["top_logprobs"] = std::move(top_logprobs);
  return result;
}

Json PromptLogprobs(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs,
                    int num_top) {
  const TokenNames names(tokenizer);
  Json result = Json::array();
  result.push_back(nullptr);
  for (const TokenLogprobs& token : logprobs) {
    Json position = Json::object();
    const auto add = [&](TokenId id, float logprob, Json rank) {
      Json& entry = position[std::to_string(id)];
      entry["logprob"] = Finite(logprob);
      entry["rank"] = std::move(rank);
      entry["decoded_token"] = names.Of(id);
    };
    add(token.token, token.logprob, nullptr);  // unless it is among the most likely
    int rank = 0;
    for (const auto& [id, logprob] : TopOf(token, num_top)) {
      add(id, logprob, ++rank);
    }
    result.push_back(std::move(position));
  }
  return result;
}

Json UsageJson(const Usage& usage) {
  Json result = Json::object();
  result["prompt_tokens"] = usage.prompt_tokens;
  result["completion_tokens"] = usage.completion_tokens;
  result["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  result["prompt_tokens_details"] = {{"cached_tokens", usage.cached_prompt_tokens},
                                     {"restored_tokens", usage.restored_prompt_tokens}};
  for (const Named<Tier>& tier : kTierNames) {
    result["kv_tokens"][tier.name] = usage.tier_tokens[static_cast<size_t>(tier.value)];
  }
  result["reused_lossy_cache"] = usage.reused_lossy;
  result["kv_bytes"] = usage.kv_bytes_held;
  return result;
}

Json FinishReasonJson(const std::optional<FinishReason>& reason) {
  if (!reason) {
    return nullptr;
  }
  return *reason == FinishReason::kStop ? "stop" : "length";
}

Json StopReasonJson(const std::string& stop_reason, const StopParams& stop) {
  if (stop_reason.empty()) {
    return nullptr;
  }
  if (std::find(stop.stop_strings.begin(), stop.stop_strings.end(), stop_reason) !=
      stop.stop_strings.end()) {
    return stop_reason;
  }
  for (const TokenId token : stop.stop_token_ids) {
    if (std::to_string(token) == stop_reason) {
      return token;
    }
  }
  return stop_reason;
}

std::string SseEvent(const std::string& data) { return fmt::format("data: {}\n\n", data); }

}  // namespace thermocline
