#include "server/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

#include "engine/store/session_record.h"
#include "server/kv_names.h"

namespace thermocline {
namespace {

constexpr double kMaxTemperature = 100;
constexpr double kMaxPenalty = 2;
constexpr double kMaxRepetitionPenalty = 100;
constexpr double kMaxLogitBiasValue = 100;

std::optional<TokenId> ParseTokenId(std::string_view text, int vocab_size) {
  TokenId token = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), token);
  if (error != std::errc{} || end != text.data() + text.size() || token < 0 ||
      token >= vocab_size) {
    return std::nullopt;
  }
  return token;
}

void ReadLogitBias(FieldReader& fields, std::optional<ApiError>& error, int vocab_size,
                   SamplingParams& sampling) {
  const Json* biases = fields.Object("logit_bias");
  if (biases == nullptr) {
    return;
  }
  if (biases->size() > kMaxLogitBias) {
    fields.Fail("logit_bias", fmt::format("has more than {} entries", kMaxLogitBias));
    return;
  }
  FieldReader entries(*biases, "logit_bias", error);
  for (const auto& [key, value] : biases->items()) {
    const std::optional<TokenId> token = ParseTokenId(key, vocab_size);
    if (!token) {
      entries.Fail(key.substr(0, 32),
                   fmt::format("is not a token id from 0 to {}", vocab_size - 1));
      return;
    }
    const double bias = entries.Number(key, 0, -kMaxLogitBiasValue, kMaxLogitBiasValue);
    sampling.logit_bias.emplace_back(*token, static_cast<float>(bias));
  }
}

// OpenAI's seeds are signed, others send unsigned ones: all 64-bit numbers are accepted.
std::optional<uint64_t> ReadSeed(FieldReader& fields) {
  const Json* seed = fields.Find("seed");
  if (seed == nullptr) {
    return std::nullopt;
  }
  if (seed->is_number_unsigned()) {
    return seed->get<uint64_t>();
  }
  return static_cast<uint64_t>(fields.Int("seed", 0, std::numeric_limits<int64_t>::min(),
                                          std::numeric_limits<int64_t>::max()));
}

void ReadStopStrings(FieldReader& fields, StopParams& stop) {
  const Json* value = fields.Find("stop");
  if (value == nullptr) {
    return;
  }
  const auto add = [&](const Json& item) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty() ||
        item.get_ref<const std::string&>().size() > kMaxStopBytes) {
      fields.Fail("stop", fmt::format("must be strings of 1 to {} bytes", kMaxStopBytes));
      return;
    }
    stop.stop_strings.push_back(item.get<std::string>());
  };
  if (value->is_string()) {
    if (!value->get_ref<const std::string&>().empty()) {  // as vLLM: "" is no stop string
      add(*value);
    }
  } else if (const Json* array = fields.Array("stop", kMaxStops); array != nullptr) {
    for (const Json& item : *array) {
      add(item);
    }
  }
}

}  // namespace

Json ParseBody(std::string_view body, std::optional<ApiError>& error) {
  Result<Json> parsed = ParseJson(body);
  if (!parsed.ok()) {
    error = FromStatus(parsed.status());
    error->code = "invalid_json";
    return Json::object();
  }
  if (!parsed->is_object()) {
    error = InvalidField(
        "", fmt::format("the body must be a JSON object, not a {}", KindOf(parsed.value())));
    return Json::object();
  }
  return std::move(parsed).value();
}

void CheckModel(const ApiContext& context, FieldReader& fields, std::optional<ApiError>& error) {
  const std::string model = fields.String("model", context.model_names.front(), 1024);
  const auto& names = context.model_names;
  if (!error && std::find(names.begin(), names.end(), model) == names.end()) {
    error = InvalidField("model", fmt::format("the model `{}` does not exist; this server has `{}`",
                                              model, names.front()));
    error->http_status = 404;
    error->code = "model_not_found";
  }
}

void ReadStream(FieldReader& fields, std::optional<ApiError>& error, ApiRequest& request) {
  request.stream = fields.Bool("stream", false);
  const Json* options = fields.Object("stream_options");
  if (options == nullptr) {
    return;
  }
  if (!request.stream) {
    fields.Fail("stream_options", "is only allowed when `stream` is true");
    return;
  }
  FieldReader stream_options(*options, "stream_options", error);
  request.continuous_usage = stream_options.Bool("continuous_usage_stats", false);
  request.include_usage = stream_options.Bool("include_usage", false) || request.continuous_usage;
}

SamplingParams ReadSampling(FieldReader& fields, std::optional<ApiError>& error, int vocab_size) {
  constexpr double kTiny = std::numeric_limits<float>::min();
  SamplingParams sampling;
  sampling.temperature = static_cast<float>(fields.Number("temperature", 1, 0, kMaxTemperature));
  // -1 and 0 are both "all"; so is more than there are.
  const int64_t top_k = fields.Int("top_k", 0, -1, std::numeric_limits<int32_t>::max());
  sampling.top_k = top_k >= vocab_size ? 0 : static_cast<int>(std::max<int64_t>(top_k, 0));
  sampling.top_p = static_cast<float>(fields.Number("top_p", 1, kTiny, 1));
  sampling.min_p = static_cast<float>(fields.Number("min_p", 0, 0, 1));
  sampling.repetition_penalty = static_cast<float>(
      fields.Number("repetition_penalty", 1, 1 / kMaxRepetitionPenalty, kMaxRepetitionPenalty));
  sampling.presence_penalty =
      static_cast<float>(fields.Number("presence_penalty", 0, -kMaxPenalty, kMaxPenalty));
  sampling.frequency_penalty =
      static_cast<float>(fields.Number("frequency_penalty", 0, -kMaxPenalty, kMaxPenalty));
  sampling.seed = ReadSeed(fields);
  ReadLogitBias(fields, error, vocab_size, sampling);
  return sampling;
}

StopParams ReadStop(FieldReader& fields, int vocab_size) {
  StopParams stop;
  ReadStopStrings(fields, stop);
  if (const Json* ids = fields.Array("stop_token_ids", kMaxStopIds); ids != nullptr) {
    stop.stop_token_ids = ReadTokens(*ids, "stop_token_ids", vocab_size, fields);
  }
  stop.min_tokens =
      static_cast<int>(fields.Int("min_tokens", 0, 0, std::numeric_limits<int32_t>::max()));
  stop.ignore_eos = fields.Bool("ignore_eos", false);
  stop.include_stop_string = fields.Bool("include_stop_str_in_output", false);
  return stop;
}

KvFidelity ReadKvFidelity(const ApiContext& context, FieldReader& fields) {
  const std::string name = fields.String("kv_fidelity", "", 16);
  if (name.empty()) {
    return context.kv_fidelity;
  }
  const std::optional<KvFidelity> fidelity = FindNamed(kKvFidelityNames, name);
  if (!fidelity) {
    fields.Fail("kv_fidelity",
                fmt::format("must be one of {}", fmt::join(AllNames(kKvFidelityNames), ", ")));
  }
  return fidelity.value_or(context.kv_fidelity);
}

std::string ReadSessionId(FieldReader& fields) {
  std::string id = fields.String("session_id", "", 128);
  if (!id.empty() && !ValidSessionId(id)) {
    fields.Fail("session_id", "must be 1 to 128 letters, digits, dots, underscores and dashes");
  }
  return id;
}

int ReadPromptLogprobs(FieldReader& fields, bool stream) {
  const int count = static_cast<int>(fields.Int("prompt_logprobs", -1, 0, kMaxLogprobs));
  if (count >= 0 && stream) {
    fields.Fail("prompt_logprobs", "is not available when `stream` is true");
  }
  return count;
}

void RefuseUnsupported(FieldReader& fields, std::optional<ApiError>& error) {
  // Harmless when empty or false; otherwise they ask for another answer.
  constexpr std::array<std::string_view, 26> kUnsupported = {
      "audio",          "bad_words",         "allowed_token_ids",
      "chat_template",  "documents",         "dry_multiplier",
      "functions",      "grammar",           "guided_choice",
      "guided_grammar", "guided_json",       "guided_regex",
      "json_schema",    "length_penalty",    "logits_processors",
      "lora",           "mirostat",          "mm_processor_kwargs",
      "prediction",     "prompt_embeds",     "structured_outputs",
      "suffix",         "use_beam_search",   "truncate_prompt_tokens",
      "typical_p",      "web_search_options"};
  for (const std::string_view name : kUnsupported) {
    const Json* value = fields.Find(name);
    const bool harmless =
        value == nullptr || *value == false || value->empty() ||
        (value->is_string() && value->get_ref<const std::string&>().empty()) ||
        (value->is_number() &&
         (*value == 0 || (*value == 1 && (name == "typical_p" || name == "length_penalty"))));
    if (!harmless) {
      fields.Fail(name, "is not supported");
      return;
    }
  }
  if (const Json* format = fields.Object("response_format"); format != nullptr) {
    FieldReader format_fields(*format, "response_format", error);
    if (format_fields.String("type", "text", 64) != "text") {
      format_fields.Fail("type", "only `text` is supported");
    }
  }
}

std::vector<TokenId> ReadTokens(const Json& array, std::string_view name, int vocab_size,
                                FieldReader& fields) {
  std::vector<TokenId> tokens;
  tokens.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    const std::optional<int64_t> token = ToInt(array[i], 0, vocab_size - 1);
    if (!token) {
      fields.Fail(fmt::format("{}[{}]", name, i),
                  fmt::format("must be a token id from 0 to {}", vocab_size - 1));
      return {};
    }
    tokens.push_back(static_cast<TokenId>(*token));
  }
  return tokens;
}

void FitLength(const ApiContext& context, FieldReader& fields, std::string_view prompt_field,
               int64_t max_tokens, Request& request) {
  const int64_t limit = context.service.max_model_len();
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (prompt_tokens == 0) {
    fields.Fail(prompt_field, "is empty: there is nothing to continue");
  } else if (prompt_tokens > limit || (prompt_tokens == limit && max_tokens != 0)) {
    fields.Fail(prompt_field,
                fmt::format("has {} tokens; this model's maximum context length is {} tokens, and "
                            "at least one of them must be left for the answer",
                            prompt_tokens, limit));
  } else if (max_tokens > limit - prompt_tokens) {
    fields.Fail(prompt_field,
                fmt::format("has {} tokens and {} more are asked for, {} in all; this model's "
                            "maximum context length is {} tokens",
                            prompt_tokens, max_tokens, prompt_tokens + max_tokens, limit));
  } else {
    request.stop.max_tokens = static_cast<int>(max_tokens < 0 ? limit - prompt_tokens : max_tokens);
    if (request.stop.min_tokens > request.stop.max_tokens) {
      fields.Fail("min_tokens", fmt::format("is more than the {} tokens that may be generated",
                                            request.stop.max_tokens));
    }
  }
}

}  // namespace thermocline
