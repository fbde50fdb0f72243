#include "server/http/http_types.h"

#include <utility>

namespace thermocline {

std::string_view HttpRequest::Header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) {
      return value;
    }
  }
  return {};
}

HttpResponse JsonResponse(std::string body) {
  HttpResponse response;
  response.content_type = "application/json";
  response.body = std::move(body);
  return response;
}

HttpResponse PiecedJsonResponse(std::function<std::string()> next_piece, size_t held_bytes) {
  std::string first = next_piece();
  std::string second = next_piece();
  if (second.empty()) {
    return JsonResponse(std::move(first));
  }
  HttpResponse response = JsonResponse({});
  response.held_bytes = held_bytes + first.size() + second.size();
  response.next_piece = [first = std::move(first), second = std::move(second),
                         next = std::move(next_piece)]() mutable {
    std::string piece = std::move(first);
    if (piece.empty()) {
      return next();
    }
    first = std::move(second);
    second.clear();
    return piece;
  };
  return response;
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response = JsonResponse(ErrorBody(error));
  response.status = error.http_status;
  if (error.retry_after_seconds > 0) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_seconds));
  }
  return response;
}

}  // namespace thermocline
