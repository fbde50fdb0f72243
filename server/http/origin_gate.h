#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/api_error.h"
#include "server/http/http_types.h"
#include "server/http/web_origin.h"

namespace thermocline {

// Which web pages may use the server, and under which names it may be reached.
struct OriginRules {
  std::vector<std::string> allowed_origins;  // `https://chat.example`, `null`, or `*` for all
  std::vector<std::string> allowed_hosts;    // names of the server, `*` for all
};

// kInvalidArgument that names an entry which cannot match anything.
Status CheckOriginRules(const OriginRules& rules);

// Decides by a request's header alone, before anything else looks at it, whether a browser may have
// been made to send it by a page that is none of ours. Programs send no Origin and are let pass.
//
// Refused, whatever the method and the content type:
//   - an Origin that is neither the server's own (it names what Host names) nor allowed;
//   - Sec-Fetch-Site: cross-site, unless an allowed Origin comes with it. Following a link to the
//     server's own page is the exception;
//   - on a loopback address, a Host with a dot in it that is neither loopback nor allowed: a page
//     whose name was made to mean 127.0.0.1 (DNS rebinding). Nobody can register a name without.
//
// Immutable: any thread may use it.
class OriginGate {
 public:
  // `loopback`: the server listens on a loopback address.
  OriginGate(const OriginRules& rules, bool loopback);

  // Why the request is refused, if it is.
  std::optional<ApiError> Check(const HttpRequest& request) const;
  // Whether it is a browser's question on behalf of an allowed page. AnswerHeaders is all there is
  // to the answer.
  bool IsPreflight(const HttpRequest& request) const;
  // What the answer to this request carries, so that an allowed page may read it.
  HttpHeaders AnswerHeaders(const HttpRequest& request) const;
  // The same where no more of the request is known than its Origin; empty: not even that.
  HttpHeaders AnswerHeaders(std::string_view origin) const;

 private:
  bool Allows(std::string_view origin) const;
  bool KnowsHost(std::string_view host) const;

  bool loopback_;
  bool all_origins_ = false;
  bool all_hosts_ = false;
  std::vector<std::string> origins_;  // as given, in lower case
  std::vector<WebOrigin> parsed_origins_;
  std::vector<Authority> hosts_;
};

}  // namespace thermocline
