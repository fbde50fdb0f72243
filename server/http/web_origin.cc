#include "server/http/web_origin.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <charconv>

namespace thermocline {
namespace {

using boost::asio::ip::address_v4;
using boost::asio::ip::address_v6;

std::optional<address_v4> ParseV4(const std::string& text) {
  boost::system::error_code error;
  const address_v4 address = boost::asio::ip::make_address_v4(text, error);
  return error ? std::nullopt : std::optional(address);
}

std::optional<address_v6> ParseV6(const std::string& text) {
  boost::system::error_code error;
  const address_v6 address = boost::asio::ip::make_address_v6(text, error);
  return error ? std::nullopt : std::optional(address);
}

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

// The host in lower case, an IPv6 address in its shortest form. Nothing: it is no host.
std::optional<std::string> NormalHost(std::string_view text) {
  std::string host = AsciiLower(text);
  if (host.starts_with('[')) {
    const std::optional<address_v6> address = ParseV6(host.substr(1, host.size() - 2));
    return address ? std::optional("[" + address->to_string() + "]") : std::nullopt;
  }
  if (host.ends_with('.')) {
    host.pop_back();
  }
  if (host.empty() || !std::all_of(host.begin(), host.end(), IsNameByte)) {
    return std::nullopt;
  }
  return host;
}

}  // namespace

std::string AsciiLower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return lower;
}

std::optional<Authority> ParseAuthority(std::string_view text) {
  size_t host_size = text.find(':');
  if (text.starts_with('[')) {
    const size_t bracket = text.find(']');
    if (bracket == std::string_view::npos) {
      return std::nullopt;
    }
    host_size = bracket + 1;
  }
  const std::optional<std::string> host = NormalHost(text.substr(0, host_size));
  if (!host) {
    return std::nullopt;
  }
  Authority authority{.host = *host, .port = std::nullopt};
  if (host_size >= text.size()) {
    return authority;
  }
  const std::string_view port = text.substr(host_size + 1);
  if (text[host_size] != ':') {
    return std::nullopt;
  }
  if (port.empty()) {  // `host:` is legal and means the scheme's own
    return authority;
  }
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc{} || end != port.data() + port.size()) {
    return std::nullopt;
  }
  authority.port = number;
  return authority;
}

std::optional<WebOrigin> ParseWebOrigin(std::string_view text) {
  const size_t colon = text.find("://");
  if (colon == std::string_view::npos || colon == 0) {
    return std::nullopt;
  }
  WebOrigin origin;
  origin.scheme = AsciiLower(text.substr(0, colon));
  const bool is_scheme = std::all_of(origin.scheme.begin(), origin.scheme.end(),
                                     [](char c) { return IsNameByte(c) ? c != '_' : c == '+'; });
  std::string_view rest = text.substr(colon + 3);
  if (rest.ends_with('/')) {
    rest.remove_suffix(1);
  }
  const std::optional<Authority> authority = ParseAuthority(rest);
  if (!is_scheme || !authority) {
    return std::nullopt;
  }
  origin.host = authority->host;
  origin.port = authority->port.value_or(DefaultPort(origin.scheme));
  return origin;
}

uint16_t DefaultPort(std::string_view scheme) {
  return scheme == "http" ? 80 : scheme == "https" ? 443 : 0;
}

std::string_view AuthorityOfTarget(std::string_view target) {
  const size_t colon = target.find("://");
  if (target.starts_with('/') || colon == std::string_view::npos) {
    return {};
  }
  target.remove_prefix(colon + 3);
  return target.substr(0, target.find_first_of("/?#"));
}

bool IsLoopbackHost(const Authority& authority) {
  const std::string& host = authority.host;
  if (host.starts_with('[')) {
    const std::optional<address_v6> address = ParseV6(host.substr(1, host.size() - 2));
    if (!address) {
      return false;
    }
    if (address->is_v4_mapped()) {
      return boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, *address).is_loopback();
    }
    return address->is_loopback();
  }
  if (const std::optional<address_v4> address = ParseV4(host)) {
    return address->is_loopback();
  }
  return host == "localhost" || host.ends_with(".localhost");
}

}  // namespace thermocline
