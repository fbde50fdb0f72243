#pragma once

#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// An error as OpenAI's clients expect it: {"error": {message, type, param, code}}.
struct ApiError {
  int http_status = 400;
  std::string message;
  std::string param;            // the offending field's path, `messages[0].content`; empty: null
  std::string code;             // a word for programs, `model_not_found`; empty: null
  int retry_after_seconds = 0;  // above 0: a Retry-After header
};

// 400 that names the field.
ApiError InvalidField(std::string_view param, std::string message);
// The one table from status codes to HTTP. A full queue (kResourceExhausted) is 503, an exceeded
// quota (kQuotaExceeded) 429: only the latter is the client's own doing.
ApiError FromStatus(const Status& status);
// The error's `type`: a function of its HTTP status.
std::string_view ErrorType(int http_status);
// The response body. Malformed UTF-8 in the message is replaced.
std::string ErrorBody(const ApiError& error);

}  // namespace thermocline
