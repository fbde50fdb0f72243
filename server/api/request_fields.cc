#include "server/api/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <limits>
#include <utility>

#include "engine/text/tokenizer.h"
#include "server/api/kv_names.h"

namespace thermocline {
namespace {

// The name that a request uses for a field that has several, or the first of them. Two names that
// say different things are an error.
std::string_view GivenName(FieldReader& fields, std::initializer_list<std::string_view> names) {
  std::string_view given;
  const Json* value = nullptr;
  for (const std::string_view name : names) {
    const Json* other = fields.Find(name);
    if (other != nullptr && value != nullptr && *other != *value) {
      fields.Fail(name, fmt::format("is another name of `{}`, which has another value", given));
    } else if (other != nullptr && value == nullptr) {
      given = name;
      value = other;
    }
  }
  return value == nullptr ? *names.begin() : given;
}

std::optional<TokenId> ParseTokenId(std::string_view text, int vocab_size) {
  TokenId token = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), token);
  if (error != std::errc{} || end != text.data() + text.size() || !IsToken(token, vocab_size)) {
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
      entries.Fail(key.substr(0, 32), fmt::format("is not {}", TokenRangeMessage(vocab_size)));
      return;
    }
    sampling.logit_bias.emplace_back(*token, ReadFloat(entries, key, kLogitBiasRange));
  }
}

// OpenAI's seeds are signed, others send unsigned ones: all 64-bit numbers are accepted. -1 is a
// random one, as for vLLM and llama.cpp.
std::optional<uint64_t> ReadSeed(FieldReader& fields) {
  const Json* seed = fields.Find("seed");
  if (seed == nullptr || *seed == -1) {
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
    auto text = item.is_string() ? item.get<std::string>() : std::string();
    const Fault fault = CheckStopString(text);
    Note(fields, fault);
    if (!fault.has_value()) {
      stop.stop_strings.push_back(std::move(text));
    }
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
  FieldReader stream_options(*options, "stream_options", error);
  request.continuous_usage = stream_options.Bool("continuous_usage_stats", false);
  request.include_usage = stream_options.Bool("include_usage", false) || request.continuous_usage;
  Note(fields, CheckStreamOptions(request.stream, request.include_usage));
}

namespace {

// Everything about how tokens are drawn, but logprobs.
SamplingParams ReadSampling(FieldReader& fields, std::optional<ApiError>& error, int vocab_size) {
  SamplingParams sampling;
  sampling.temperature = ReadFloat(fields, "temperature", kTemperatureRange);
  sampling.top_k = ClampTopK(ReadInt(fields, "top_k", kTopKRange), vocab_size);
  sampling.top_p = ReadFloat(fields, "top_p", kTopPRange);
  sampling.min_p = ReadFloat(fields, "min_p", kMinPRange);
  sampling.repetition_penalty = ReadFloat(
      fields, GivenName(fields, {"repetition_penalty", "repeat_penalty"}), kRepetitionPenaltyRange);
  sampling.presence_penalty = ReadFloat(fields, "presence_penalty", kPenaltyRange);
  sampling.frequency_penalty = ReadFloat(fields, "frequency_penalty", kPenaltyRange);
  const int64_t repeat_last_n = ReadInt(fields, "repeat_last_n", kRepeatLastNRange);
  Note(fields, CheckRepeatLastN(repeat_last_n, sampling));
  sampling.seed = ReadSeed(fields);
  ReadLogitBias(fields, error, vocab_size, sampling);
  return sampling;
}

// Everything about when output ends, but max_tokens.
StopParams ReadStop(FieldReader& fields, int vocab_size) {
  StopParams stop;
  ReadStopStrings(fields, stop);
  if (const Json* ids = fields.Array("stop_token_ids", kMaxStopIds); ids != nullptr) {
    stop.stop_token_ids = ReadTokens(*ids, "stop_token_ids", vocab_size, fields);
  }
  stop.min_tokens = static_cast<int>(
      ReadInt(fields, GivenName(fields, {"min_tokens", "min_new_tokens"}), kMinTokensRange));
  stop.ignore_eos = fields.Bool("ignore_eos", false);
  stop.include_stop_string = fields.Bool("include_stop_str_in_output", false);
  return stop;
}

// `kv_fidelity`: exact, high, balanced or max; the server's own when absent.
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

// `session_id` and `cache_salt`: see SetSession and SetCacheScope.
void ReadCacheScope(FieldReader& fields, Request& request) {
  Note(fields, SetSession(fields.String("session_id", "", kMaxSessionIdBytes), request));
  std::optional<std::string> salt;
  if (fields.Has("cache_salt")) {
    salt = fields.String("cache_salt", "", kMaxCacheSaltBytes);
  }
  Note(fields, SetCacheScope(salt, request));
}

// What the answer is to hold: `n`, `return_token_ids`, `prompt_logprobs`...
void ReadAnswerForm(FieldReader& fields, std::optional<ApiError>& error, ApiRequest& request,
                    Request& prompt) {
  prompt.num_choices = static_cast<int>(ReadInt(fields, "n", kNumChoicesRange));
  const int64_t best_of = fields.Int("best_of", prompt.num_choices, 1, kMaxCount);
  Note(fields, CheckBestOf(best_of, prompt.num_choices));
  prompt.num_prompt_logprobs = static_cast<int>(ReadInt(fields, "prompt_logprobs", kLogprobsRange));
  Note(fields, CheckPromptLogprobs(prompt.num_prompt_logprobs, request.stream));
  request.num_prompt_logprobs = prompt.num_prompt_logprobs;
  request.return_token_ids = fields.Bool("return_token_ids", false);
  request.tokens_as_ids = fields.Bool("return_tokens_as_token_ids", false);
  prompt.skip_special_tokens = fields.Bool("skip_special_tokens", true);
  if (const Json* format = fields.Object("response_format"); format != nullptr) {
    FieldReader format_fields(*format, "response_format", error);
    if (!format->empty() && format_fields.String("type", "", 64) != "text") {
      format_fields.Fail("type", "only `text` is supported");
    }
  }
}

}  // namespace

Request ReadCommonFields(const ApiContext& context, FieldReader& fields,
                         std::optional<ApiError>& error, int (*read_logprobs)(FieldReader&),
                         ApiRequest& request) {
  const int vocab_size = context.service.tokenizer().vocab_size();
  Request common;
  ReadAnswerForm(fields, error, request, common);
  common.sampling = ReadSampling(fields, error, vocab_size);
  common.sampling.num_logprobs = read_logprobs(fields);
  common.stop = ReadStop(fields, vocab_size);
  common.kv_fidelity = ReadKvFidelity(context, fields);
  ReadCacheScope(fields, common);
  return common;
}

int64_t ReadMaxTokens(FieldReader& fields, const FieldRange<int64_t>& range,
                      bool asks_about_prompt) {
  const std::string_view name =
      GivenName(fields, {"max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict"});
  const int64_t max_tokens = ReadInt(fields, name, range);
  Note(fields, CheckMaxTokens(name, max_tokens, asks_about_prompt));
  return max_tokens;
}

std::vector<TokenId> ReadTokens(const Json& array, std::string_view name, int vocab_size,
                                FieldReader& fields) {
  std::vector<TokenId> tokens;
  tokens.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    const std::optional<int64_t> token = ToInt(array[i], 0, vocab_size - 1);
    if (!token) {
      fields.Fail(fmt::format("{}[{}]", name, i),
                  fmt::format("must be {}", TokenRangeMessage(vocab_size)));
      return {};
    }
    tokens.push_back(static_cast<TokenId>(*token));
  }
  return tokens;
}

}  // namespace thermocline
