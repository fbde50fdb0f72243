#include "server/http/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace thermocline {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

bool Matches(std::string_view pattern, std::string_view path) {
  if (pattern.ends_with("/*")) {
    pattern.remove_suffix(1);
    return path.size() > pattern.size() && path.starts_with(pattern);
  }
  return pattern == path;
}

// It comes back in a header and goes into logs: nothing that could forge either.
bool IsPlainWord(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
}

std::string Join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

}  // namespace

Router::Router(std::function<std::string()> new_request_id)
    : new_request_id_(std::move(new_request_id)) {}

void Router::Add(std::string method, std::string path, HttpHandler handler) {
  routes_.push_back({std::move(method), std::move(path), std::move(handler)});
}

void Router::AddCommonHeaders(const HttpRequest& request, ResponseWriter& writer) const {
  const std::string_view id = request.Header("x-request-id");
  writer.AddHeader("X-Request-Id", IsPlainWord(id) ? std::string(id) : new_request_id_());
  writer.AddHeader("X-Content-Type-Options", "nosniff");
}

void Router::Handle(const RequestPtr& request, const WriterPtr& writer) const {
  AddCommonHeaders(*request, *writer);
  const std::string method = request->method == "HEAD" ? "GET" : request->method;
  std::vector<std::string> allowed;
  for (const Route& route : routes_) {
    if (!Matches(route.path, request->path)) {
      continue;
    }
    if (route.method == method) {
      route.handler(request, writer);
      return;
    }
    allowed.push_back(route.method);
    if (route.method == "GET") {
      allowed.emplace_back("HEAD");
    }
  }
  ApiError error;
  if (allowed.empty() && request->target != "*") {
    error.http_status = 404;
    error.message = fmt::format("there is no {}", request->path);
    error.code = "unknown_url";
    writer->Respond(ErrorResponse(error));
    return;
  }
  allowed.emplace_back("OPTIONS");
  if (method == "OPTIONS") {
    HttpResponse response;
    response.status = 204;
    response.headers.emplace_back(
        "Allow", request->target == "*" ? "GET, HEAD, POST, DELETE, OPTIONS" : Join(allowed));
    writer->Respond(std::move(response));
    return;
  }
  error.http_status = 405;
  error.message = fmt::format("{} allows {}", request->path, Join(allowed));
  error.code = "method_not_allowed";
  HttpResponse response = ErrorResponse(error);
  response.headers.emplace_back("Allow", Join(allowed));
  writer->Respond(std::move(response));
}

}  // namespace thermocline
