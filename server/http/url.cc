#include "server/http/url.h"

#include <charconv>

namespace thermocline {

std::string UrlPath(std::string_view target) {
  if (const size_t scheme = target.find("://");
      scheme != std::string_view::npos && !target.starts_with('/')) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  target = target.substr(0, target.find_first_of("?#"));
  std::string path;
  for (size_t i = 0; i < target.size(); ++i) {
    unsigned byte = 0;
    if (target[i] == '%' && i + 2 < target.size()) {
      const char* const first = target.data() + i + 1;
      const auto [end, error] = std::from_chars(first, first + 2, byte, 16);
      if (error == std::errc{} && end == first + 2) {
        path += static_cast<char>(byte);
        i += 2;
        continue;
      }
    }
    path += target[i];
  }
  return path;
}

}  // namespace thermocline
