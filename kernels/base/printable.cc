#include "kernels/base/printable.h"

#include <fmt/format.h>

#include <iterator>

namespace thermocline {

std::string Printable(std::string_view untrusted, size_t max_bytes) {
  std::string safe;
  for (const char c : untrusted.substr(0, max_bytes)) {
    if (c >= ' ' && c <= '~' && c != '\\') {
      safe += c;
    } else {
      fmt::format_to(std::back_inserter(safe), "\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return untrusted.size() > max_bytes ? safe + "..." : safe;
}

}  // namespace thermocline
