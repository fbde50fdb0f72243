#include "server/response_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "engine/text/utf8.h"
#include "server/kv_names.h"

namespace thermocline {
namespace {

// JSON has no infinity; this is what OpenAI and vLLM write for "never".
constexpr double kNever = -9999;

double Finite(float logprob) {
  return std::isfinite(logprob) ? std::max(static_cast<double>(logprob), kNever) : kNever;
}

size_t NumCharacters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;  // not a continuation byte
  }));
}

Json ChatToken(const Tokenizer& tokenizer, TokenId token, float logprob) {
  Json bytes = Json::array();
  for (const char c : tokenizer.TokenBytes(token, /*show_special=*/true)) {
    bytes.push_back(static_cast<uint8_t>(c));
  }
  return {{"token", TokenText(tokenizer, token)},
          {"logprob", Finite(logprob)},
          {"bytes", std::move(bytes)}};
}

}  // namespace

std::string TokenText(const Tokenizer& tokenizer, TokenId token) {
  const std::string_view bytes = tokenizer.TokenBytes(token, /*show_special=*/true);
  if (ValidUtf8Prefix(bytes) == bytes.size()) {
    return std::string(bytes);
  }
  std::string text = "bytes:";
  for (const char c : bytes) {
    text += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  }
  return text;
}

Json ChatLogprobs(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs) {
  Json content = Json::array();
  for (const TokenLogprobs& token : logprobs) {
    Json entry = ChatToken(tokenizer, token.token, token.logprob);
    Json top = Json::array();
    for (const auto& [id, logprob] : token.top) {
      top.push_back(ChatToken(tokenizer, id, logprob));
    }
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  Json result = Json::object();
  result["content"] = std::move(content);
  result["refusal"] = nullptr;
  return result;
}

void CompletionLogprobs::AddToken(const Tokenizer& tokenizer, TokenId token) {
  tokens_.push_back(TokenText(tokenizer, token));
  text_offset_.push_back(offset_);
  offset_ += NumCharacters(tokenizer.TokenBytes(token, /*show_special=*/true));
}

void CompletionLogprobs::AddFirst(const Tokenizer& tokenizer, TokenId token) {
  AddToken(tokenizer, token);
  token_logprobs_.push_back(nullptr);
  top_logprobs_.push_back(nullptr);
}

void CompletionLogprobs::Add(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs) {
  for (const TokenLogprobs& token : logprobs) {
    AddToken(tokenizer, token.token);
    token_logprobs_.push_back(Finite(token.logprob));
    Json top = Json::object();
    for (const auto& [id, logprob] : token.top) {
      top[TokenText(tokenizer, id)] = Finite(logprob);
    }
    // As OpenAI: the chosen token is there even when it is none of the most likely.
    top[TokenText(tokenizer, token.token)] = Finite(token.logprob);
    top_logprobs_.push_back(std::move(top));
  }
}

Json CompletionLogprobs::Take() {
  Json result = Json::object();
  result["text_offset"] = std::exchange(text_offset_, Json::array());
  result["token_logprobs"] = std::exchange(token_logprobs_, Json::array());
  result["tokens"] = std::exchange(tokens_, Json::array());
  result["top_logprobs"] = std::exchange(top_logprobs_, Json::array());
  return result;
}

Json PromptLogprobs(const Tokenizer& tokenizer, std::span<const TokenLogprobs> logprobs) {
  Json result = Json::array();
  result.push_back(nullptr);
  for (const TokenLogprobs& token : logprobs) {
    Json position = Json::object();
    const auto add = [&](TokenId id, float logprob, Json rank) {
      Json& entry = position[std::to_string(id)];
      entry["logprob"] = Finite(logprob);
      entry["rank"] = std::move(rank);
      entry["decoded_token"] = TokenText(tokenizer, id);
    };
    add(token.token, token.logprob, nullptr);  // unless it is among the most likely
    for (size_t i = 0; i < token.top.size(); ++i) {
      add(token.top[i].first, token.top[i].second, i + 1);
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
  switch (*reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "abort";
    case FinishReason::kError:
      break;
  }
  return "error";
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
