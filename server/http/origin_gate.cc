#include "server/http/origin_gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace thermocline {
namespace {

constexpr size_t kMaxShownBytes = 200;
constexpr size_t kMaxAllowHeaderBytes = 4096;
constexpr char kUsualHeaders[] = "Authorization, Content-Type, X-Request-Id";

ApiError Forbidden(std::string code, std::string message) {
  ApiError error;
  error.http_status = 403;
  error.code = std::move(code);
  error.message = std::move(message);
  return error;
}

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

std::string Shown(std::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, kMaxShownBytes)) {
    shown += c >= ' ' && c <= '~' ? c : '?';
  }
  return shown;
}

std::vector<std::string_view> AllOf(const HttpRequest& request, std::string_view name) {
  std::vector<std::string_view> values;
  for (const auto& [field, value] : request.headers) {
    if (field == name) {
      values.emplace_back(value);
    }
  }
  return values;
}

// RFC 9110, 5.6.2.
bool IsToken(std::string_view text) {
  static constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

// The names that a preflight asks for, those that are names.
std::string AskedHeaders(std::string_view list) {
  std::string asked;
  list = list.substr(0, kMaxAllowHeaderBytes);
  while (!list.empty()) {
    std::string_view name = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), name.size() + 1));
    name.remove_prefix(std::min(name.size(), name.find_first_not_of(" \t")));
    name = name.substr(0, name.find_last_not_of(" \t") + 1);
    if (IsToken(name)) {
      asked += asked.empty() ? "" : ", ";
      asked += name;
    }
  }
  return asked;
}

// The page's own files: a link to them may stand anywhere, and they do nothing.
bool IsLinkToPage(const HttpRequest& request) {
  return (request.method == "GET" || request.method == "HEAD") &&
         (request.path == "/" || request.path == "/index.html") &&
         request.Header("sec-fetch-mode") == "navigate" &&
         request.Header("sec-fetch-dest") == "document";
}

std::string_view HostOf(const HttpRequest& request) {
  const std::string_view in_target = AuthorityOfTarget(request.target);
  return in_target.empty() ? request.Header("host") : in_target;
}

// Whether the page came from this server. What a proxy speaks to the browser we cannot see, so
// either scheme is ours; the port is then that scheme's own.
bool IsOwn(std::string_view origin, std::string_view host) {
  const std::optional<WebOrigin> page = ParseWebOrigin(origin);
  const std::optional<Authority> server = ParseAuthority(host);
  return page && server && (page->scheme == "http" || page->scheme == "https") &&
         page->host == server->host &&
         page->port == server->port.value_or(DefaultPort(page->scheme));
}

}  // namespace

Status CheckOriginRules(const OriginRules& rules) {
  for (const std::string& origin : rules.allowed_origins) {
    if (origin != "*" && AsciiLower(origin) != "null" && AsciiLower(origin) != "file://" &&
        !ParseWebOrigin(origin)) {
      return InvalidArgument("`{}` is not an origin: write https://name[:port], null or *",
                             Shown(origin));
    }
  }
  for (const std::string& host : rules.allowed_hosts) {
    if (host != "*" && !ParseAuthority(host)) {
      return InvalidArgument("`{}` is not a host: write name[:port] or *", Shown(host));
    }
  }
  return {};
}

OriginGate::OriginGate(const OriginRules& rules, bool loopback) : loopback_(loopback) {
  for (const std::string& origin : rules.allowed_origins) {
    all_origins_ |= origin == "*";
    origins_.push_back(AsciiLower(origin));
    if (std::optional<WebOrigin> parsed = ParseWebOrigin(origin)) {
      hosts_.push_back({.host = parsed->host, .port = std::nullopt});
      parsed_origins_.push_back(std::move(*parsed));
    }
  }
  for (const std::string& host : rules.allowed_hosts) {
    all_hosts_ |= host == "*";
    if (std::optional<Authority> parsed = ParseAuthority(host)) {
      hosts_.push_back(std::move(*parsed));
    }
  }
}

bool OriginGate::Allows(std::string_view origin) const {
  if (origin.empty() || !IsVisible(origin)) {
    return false;
  }
  if (all_origins_ ||
      std::find(origins_.begin(), origins_.end(), AsciiLower(origin)) != origins_.end()) {
    return true;
  }
  const std::optional<WebOrigin> parsed = ParseWebOrigin(origin);
  return parsed && std::find(parsed_origins_.begin(), parsed_origins_.end(), *parsed) !=
                       parsed_origins_.end();
}

// Where every page may call, a page under another name may too.
bool OriginGate::KnowsHost(std::string_view host) const {
  if (!loopback_ || all_hosts_ || all_origins_ || host.empty()) {
    return true;
  }
  const std::optional<Authority> authority = ParseAuthority(host);
  if (!authority) {
    return false;
  }
  const bool has_dot = authority->host.find_first_of(".[") != std::string::npos;
  return !has_dot || IsLoopbackHost(*authority) ||
         std::any_of(hosts_.begin(), hosts_.end(), [&](const Authority& known) {
           return known.host == authority->host && (!known.port || known.port == authority->port);
         });
}

std::optional<ApiError> OriginGate::Check(const HttpRequest& request) const {
  const std::string_view host = HostOf(request);
  for (const std::string_view name : {host, request.Header("host")}) {
    if (!KnowsHost(name)) {
      return Forbidden("unknown_host",
                       fmt::format("this server is not known as `{}`; --allowed-hosts may name it",
                                   Shown(name)));
    }
  }
  const std::vector<std::string_view> sites = AllOf(request, "sec-fetch-site");
  const auto has_site = [&sites](std::string_view site) {
    return std::any_of(sites.begin(), sites.end(),
                       [site](std::string_view value) { return AsciiLower(value) == site; });
  };
  const std::vector<std::string_view> origins = AllOf(request, "origin");
  const auto is_ours = [&](std::string_view origin) {
    return Allows(origin) || (!has_site("cross-site") && IsOwn(origin, host));
  };
  for (const std::string_view origin : origins) {
    if (origins.size() > 1 || !is_ours(origin)) {
      return Forbidden(
          "forbidden_origin",
          fmt::format("pages of `{}` may not use this server; --allowed-origins may name it",
                      Shown(origin)));
    }
  }
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const bool foreign = has_site("cross-site") || (has_site("same-site") && !reads);
  if (origins.empty() && foreign && !all_origins_ && !IsLinkToPage(request)) {
    return Forbidden(
        "forbidden_origin",
        "pages of other sites may not use this server; --allowed-origins may name one");
  }
  return std::nullopt;
}

bool OriginGate::IsPreflight(const HttpRequest& request) const {
  return request.method == "OPTIONS" && Allows(request.Header("origin")) &&
         !request.Header("access-control-request-method").empty();
}

HttpHeaders OriginGate::AnswerHeaders(std::string_view origin) const {
  HttpHeaders headers = {{"Vary", "Origin"}};
  if (origin.empty()) {
    if (all_origins_) {
      headers.emplace_back("Access-Control-Allow-Origin", "*");
    } else if (origins_.size() == 1) {  // nobody else could be meant
      std::string only = origins_.front();
      headers.emplace_back("Access-Control-Allow-Origin",
                           only.ends_with('/') ? only.substr(0, only.size() - 1) : only);
    }
  } else if (Allows(origin)) {
    headers.emplace_back("Access-Control-Allow-Origin", origin);
    headers.emplace_back("Access-Control-Expose-Headers",
                         "X-Request-Id, X-Response-Id, Retry-After");
  }
  return headers;
}

HttpHeaders OriginGate::AnswerHeaders(const HttpRequest& request) const {
  const std::string_view origin = request.Header("origin");
  if (origin.empty()) {
    return {{"Vary", "Origin"}};
  }
  HttpHeaders headers = AnswerHeaders(origin);
  if (!IsPreflight(request)) {
    return headers;
  }
  headers.front().second = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
  const std::string asked = AskedHeaders(request.Header("access-control-request-headers"));
  headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
  headers.emplace_back("Access-Control-Allow-Headers", asked.empty() ? kUsualHeaders : asked);
  headers.emplace_back("Access-Control-Max-Age", "600");
  if (request.Header("access-control-request-private-network") == "true") {
    headers.emplace_back("Access-Control-Allow-Private-Network", "true");
  }
  return headers;
}

}  // namespace thermocline
