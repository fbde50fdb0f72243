#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "server/api/api_request.h"
#include "server/api/field_reader.h"
#include "server/http/json.h"

namespace thermocline {

// The parts that several endpoints' bodies have in common. Errors go to the reader's slot.

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
// `session_id` and `cache_salt`. A salt parts the prefix cache: only requests with the same one
// share pages. It goes into the request's tenant. Sessions are restored by name, without a salt, so
// that nobody gets both.
void ReadCacheScope(FieldReader& fields, Request& request);
// What the answer is to hold: `n`, `return_token_ids`, `prompt_logprobs`...
void ReadAnswerForm(FieldReader& fields, std::optional<ApiError>& error, ApiRequest& request,
                    Request& prompt);
// `max_tokens` under any of its names; -1: all the room there is. 0 is refused unless
// `zero_allowed`.
int64_t ReadMaxTokens(FieldReader& fields, int64_t fallback, bool zero_allowed);
// Token ids of one array, each within the vocabulary.
std::vector<TokenId> ReadTokens(const Json& array, std::string_view name, int vocab_size,
                                FieldReader& fields);
// Holds prompt and output to the model's length. `max_tokens` < 0: all the room there is. More than
// that is cut, with a warning. A prompt that leaves no room is fine where nothing is generated.
void FitLength(const ApiContext& context, FieldReader& fields, std::string_view prompt_field,
               int64_t max_tokens, Request& request, std::vector<std::string>& warnings);

}  // namespace thermocline
