#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "server/api_request.h"
#include "server/field_reader.h"
#include "server/json.h"

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
// `session_id`: the name under which the conversation can be saved; empty when absent.
std::string ReadSessionId(FieldReader& fields);
// -1 when absent.
int ReadPromptLogprobs(FieldReader& fields, bool stream);
// Fields that change what the answer means and that are not supported: better an error than another
// answer than the one that was asked for.
void RefuseUnsupported(FieldReader& fields, std::optional<ApiError>& error);
// Token ids of one array, each within the vocabulary.
std::vector<TokenId> ReadTokens(const Json& array, std::string_view name, int vocab_size,
                                FieldReader& fields);
// Holds prompt and output to the model's length. `max_tokens` < 0: all the room there is.
void FitLength(const ApiContext& context, FieldReader& fields, std::string_view prompt_field,
               int64_t max_tokens, Request& request);

}  // namespace thermocline
