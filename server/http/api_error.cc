#include "server/http/api_error.h"

#include <utility>

#include "server/http/json.h"

namespace thermocline {
namespace {

struct StatusRow {
  int http_status;
  const char* code;
  int retry_after_seconds;
};

StatusRow RowOf(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
      return {400, "", 0};
    case StatusCode::kNotFound:
      return {404, "not_found", 0};
    case StatusCode::kUnauthenticated:
      return {401, "invalid_api_key", 0};
    case StatusCode::kPermissionDenied:
      return {403, "permission_denied", 0};
    case StatusCode::kAlreadyExists:
    case StatusCode::kAborted:
    case StatusCode::kFailedPrecondition:
      return {409, "conflict", 0};
    case StatusCode::kResourceExhausted:
      return {503, "server_overloaded", 1};
    case StatusCode::kQuotaExceeded:
      return {429, "", 1};
    case StatusCode::kUnavailable:
      return {503, "unavailable", 5};
    case StatusCode::kCancelled:
      return {503, "cancelled", 5};
    case StatusCode::kDeadlineExceeded:
      return {504, "timeout", 0};
    case StatusCode::kUnimplemented:
      return {501, "not_implemented", 0};
    case StatusCode::kOk:
    case StatusCode::kUnknown:
    case StatusCode::kInternal:
    case StatusCode::kDataLoss:
      break;
  }
  return {500, "internal_error", 0};
}

}  // namespace

ApiError InvalidField(std::string_view param, std::string message) {
  ApiError error;
  error.message = std::move(message);
  error.param = param;
  return error;
}

ApiError FromStatus(const Status& status) {
  const StatusRow row = RowOf(status.code());
  ApiError error;
  error.http_status = row.http_status;
  error.message = status.message();
  error.code = row.code;
  error.retry_after_seconds = row.retry_after_seconds;
  return error;
}

std::string_view ErrorType(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string ErrorBody(const ApiError& error) {
  Json object = {{"message", error.message},
                 {"type", ErrorType(error.http_status)},
                 {"param", nullptr},
                 {"code", nullptr}};
  if (!error.param.empty()) {
    object["param"] = error.param;
  }
  if (!error.code.empty()) {
    object["code"] = error.code;
  }
  return DumpJson(Json{{"error", std::move(object)}});
}

}  // namespace thermocline
