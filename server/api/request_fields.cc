#include "server/api/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <limits>
#include <utility>

#include "engine/store/page_record.h"
#include "engine/store/session_record.h"
#include "server/api/kv_names.h"

namespace thermocline {
namespace {

constexpr double kMaxTemperature = 100;
constexpr double kMaxPenalty = 2;
constexpr double kMaxRepetitionPenalty = 100;
constexpr double kMaxLogitBiasValue = 100;
constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
// Some clients' "no limit": the largest whole number of JavaScript's. It is cut to the room.
constexpr int64_t kMaxMaxTokens = int64_t{1} << 53;

// Of one field's several names the one that the request uses, or the first. Two that say different
// things are an error.
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
  FieldReader stream_options(*options, "stream_options", error);
  request.continuous_usage = stream_options.Bool("continuous_usage_stats", false);
  request.include_usage = stream_options.Bool("include_usage", false) || request.continuous_usage;
  if (!request.stream && request.include_usage) {
    fields.Fail("stream_options", "is only allowed when `stream` is true");
  }
}

SamplingParams ReadSampling(FieldReader& fields, std::optional<ApiError>& error, int vocab_size) {
  SamplingParams sampling;
  sampling.temperature = static_cast<float>(fields.Number("temperature", 1, 0, kMaxTemperature));
  // -1 and 0 are both "all"; so is more than there are.
  const int64_t top_k = fields.Int("top_k", 0, -1, kMaxInt);
  sampling.top_k = top_k >= vocab_size ? 0 : static_cast<int>(std::max<int64_t>(top_k, 0));
  sampling.top_p = static_cast<float>(fields.Number("top_p", 1, 0, 1));
  sampling.min_p = static_cast<float>(fields.Number("min_p", 0, 0, 1));
  sampling.repetition_penalty =
      static_cast<float>(fields.Number(GivenName(fields, {"repetition_penalty", "repeat_penalty"}),
                                       1, 1 / kMaxRepetitionPenalty, kMaxRepetitionPenalty));
  sampling.presence_penalty =
      static_cast<float>(fields.Number("presence_penalty", 0, -kMaxPenalty, kMaxPenalty));
  sampling.frequency_penalty =
      static_cast<float>(fields.Number("frequency_penalty", 0, -kMaxPenalty, kMaxPenalty));
  // llama.cpp's: over how many tokens penalties look back. Ours look at all.
  const bool has_penalty = sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 ||
                           sampling.frequency_penalty != 0;
  if (fields.Int("repeat_last_n", -1, -1, kMaxInt) >= 0 && has_penalty) {
    fields.Fail("repeat_last_n", "must be -1: penalties are over all tokens");
  }
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
  stop.min_tokens = static_cast<int>(
      fields.Int(GivenName(fields, {"min_tokens", "min_new_tokens"}), 0, 0, kMaxInt));
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

void ReadCacheScope(FieldReader& fields, Request& request) {
  request.session_id = fields.String("session_id", "", 128);
  if (!request.session_id.empty() && !ValidSessionId(request.session_id)) {
    fields.Fail("session_id", "must be 1 to 128 letters, digits, dots, underscores and dashes");
  }
  if (!fields.Has("cache_salt")) {
    return;
  }
  const std::string salt = fields.String("cache_salt", "", kMaxCacheSaltBytes);
  if (salt.empty()) {
    fields.Fail("cache_salt", "must be a string that is not empty");
  } else if (!request.session_id.empty()) {
    fields.Fail("cache_salt", "excludes `session_id`: what is saved by name is restored by name");
  }
  static_assert(kMaxCacheSaltBytes <= kMaxTenantBytes / 2);  // the store keeps it with each page
  request.tenant += '\0' + salt;                             // no tenant's own name has the byte
}

void ReadAnswerForm(FieldReader& fields, std::optional<ApiError>& error, ApiRequest& request,
                    Request& prompt) {
  prompt.num_choices = static_cast<int>(fields.Int("n", 1, 1, kMaxChoices));
  if (fields.Int("best_of", prompt.num_choices, 1, kMaxInt) != prompt.num_choices) {
    fields.Fail("best_of", "must equal `n`: choices are not ranked");
  }
  prompt.num_prompt_logprobs = static_cast<int>(fields.Int("prompt_logprobs", -1, 0, kMaxLogprobs));
  if (prompt.num_prompt_logprobs >= 0 && request.stream) {
    fields.Fail("prompt_logprobs", "is not available when `stream` is true");
  }
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

int64_t ReadMaxTokens(FieldReader& fields, int64_t fallback, bool zero_allowed) {
  const std::string_view name =
      GivenName(fields, {"max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict"});
  const int64_t max_tokens = fields.Int(name, fallback, -1, kMaxMaxTokens);
  if (max_tokens == 0 && !zero_allowed) {
    fields.Fail(name,
                "may be 0 only where the answer is about the prompt: with `echo` or "
                "`prompt_logprobs`");
  }
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
                  fmt::format("must be a token id from 0 to {}", vocab_size - 1));
      return {};
    }
    tokens.push_back(static_cast<TokenId>(*token));
  }
  return tokens;
}

void FitLength(const ApiContext& context, FieldReader& fields, std::string_view prompt_field,
               int64_t max_tokens, Request& request, std::vector<std::string>& warnings) {
  const int64_t limit = context.service.max_model_len();
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t room = limit - prompt_tokens;
  if (prompt_tokens == 0) {
    fields.Fail(prompt_field, "is empty: there is nothing to continue");
    return;
  }
  if (room < 0 || (room == 0 && max_tokens != 0)) {
    fields.Fail(prompt_field,
                fmt::format("has {} tokens; this model's maximum context length is {} tokens, and "
                            "at least one of them must be left for the answer",
                            prompt_tokens, limit));
    return;
  }
  request.stop.max_tokens = static_cast<int>(max_tokens < 0 ? room : std::min(max_tokens, room));
  int& min_tokens = request.stop.min_tokens;
  if (max_tokens > room) {
    warnings.push_back(fmt::format(
        "max_tokens: a prompt of {} tokens leaves room for {} of the {} that were asked "
        "for; this model's maximum context length is {} tokens",
        prompt_tokens, room, max_tokens, limit));
    min_tokens =
        min_tokens <= max_tokens ? std::min(min_tokens, request.stop.max_tokens) : min_tokens;
  }
  if (min_tokens > request.stop.max_tokens) {
    fields.Fail("min_tokens", fmt::format("is more than the {} tokens that may be generated",
                                          request.stop.max_tokens));
  }
}

}  // namespace thermocline
