#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace thermocline {

// `host[:port]`, as in a Host header.
struct Authority {
  std::string host;              // in lower case, without a final dot; IPv6 in brackets, shortest
  std::optional<uint16_t> port;  // when it is written

  bool operator==(const Authority&) const = default;
};

// Who a web page is: `scheme://host[:port]`.
struct WebOrigin {
  std::string scheme;  // in lower case
  std::string host;    // as Authority's
  uint16_t port = 0;   // http's and https's own when none is written, else 0

  bool operator==(const WebOrigin&) const = default;
};

// Nothing for what is neither a name nor an address, for a bad port and for an empty text.
std::optional<Authority> ParseAuthority(std::string_view text);
// Nothing for `null` and for whatever has a path. A `/` at the end is taken off.
std::optional<WebOrigin> ParseWebOrigin(std::string_view text);
// 80 and 443; 0 for other schemes.
uint16_t DefaultPort(std::string_view scheme);
// `http://host:port/...` in a request's first line: its host and port. Empty for a path alone.
std::string_view AuthorityOfTarget(std::string_view target);

// 127.0.0.0/8, [::1], localhost and *.localhost.
bool IsLoopbackHost(const Authority& authority);
std::string AsciiLower(std::string_view text);

}  // namespace thermocline
