#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "server/api/api_request.h"
#include "server/api/field_reader.h"
#include "server/api/request_rules.h"
#include "server/http/json.h"

namespace thermocline {

// Reads the parts that several endpoints' bodies have in common. What the values may be stands in
// request_rules.h. Errors go to the reader's slot.

// What a rule has found wrong, if anything, is the reader's error.
inline void Note(FieldReader& fields, const Fault& fault) {
  if (fault.has_value()) {
    fields.Fail(fault->field, fault->message);
  }
}
// A number within its range.
inline int64_t ReadInt(FieldReader& fields, std::string_view name,
                       const FieldRange<int64_t>& range) {
  return fields.Int(name, range.fallback, range.min, range.max);
}
inline float ReadFloat(FieldReader& fields, std::string_view name,
                       const FieldRange<double>& range) {
  return static_cast<float>(fields.Number(name, range.fallback, range.min, range.max));
}

// The body as a JSON object; an empty one and an error otherwise.
Json ParseBody(std::string_view body, std::optional<ApiError>& error);
// A model that is named must be ours.
void CheckModel(const ApiContext& context, FieldReader& fields, std::optional<ApiError>& error);
void ReadStream(FieldReader& fields, std::optional<ApiError>& error, ApiRequest& request);
// Everything about how tokens are drawn, but logprobs.
SamplingParams ReadSampling(FieldReader& fields, std::optional<ApiError>& error, int vocab_size);
// Everything about when output ends, but max_tokens.
StopParams ReadStop(FieldReader& fields, int vocab_size);
// `kv_fidelity`: exact, high, balanced or max; the server's own when absent.
KvFidelity ReadKvFidelity(const ApiContext& context, FieldReader& fields);
// `session_id` and `cache_salt`: see SetSession and SetCacheScope.
void ReadCacheScope(FieldReader& fields, Request& request);
// What the answer is to hold: `n`, `return_token_ids`, `prompt_logprobs`...
void ReadAnswerForm(FieldReader& fields, std::optional<ApiError>& error, ApiRequest& request,
                    Request& prompt);
// `max_tokens` under any of its names; -1: all the room there is. See CheckMaxTokens.
int64_t ReadMaxTokens(FieldReader& fields, const FieldRange<int64_t>& range,
                      bool asks_about_prompt);
// Token ids of one array, each within the vocabulary.
std::vector<TokenId> ReadTokens(const Json& array, std::string_view name, int vocab_size,
                                FieldReader& fields);

}  // namespace thermocline
