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
// What chats and completions have in common: the form of the answer, how tokens are drawn, when
// output ends, and what the request may read. `read_logprobs` reads the fields of log
// probabilities, which differ: how many to return at each position, or -1 for none.
Request ReadCommonFields(const ApiContext& context, FieldReader& fields,
                         std::optional<ApiError>& error, int (*read_logprobs)(FieldReader&),
                         ApiRequest& request);
// `max_tokens` under any of its names; -1: all the room there is. See CheckMaxTokens.
int64_t ReadMaxTokens(FieldReader& fields, const FieldRange<int64_t>& range,
                      bool asks_about_prompt);
// Token ids of one array, each within the vocabulary.
std::vector<TokenId> ReadTokens(const Json& array, std::string_view name, int vocab_size,
                                FieldReader& fields);

}  // namespace thermocline
