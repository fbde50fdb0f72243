#include "server/cli/byte_size.h"

#include <array>
#include <charconv>
#include <cmath>

namespace thermocline {
namespace {

constexpr std::string_view kPrefixes = "KMGT";

// The factor that a suffix stands for; 0 if it is none.
double SuffixFactor(std::string_view suffix) {
  if (suffix.empty() || suffix == "B") {
    return 1;
  }
  const bool lower = suffix[0] >= 'a';
  const size_t power = kPrefixes.find(lower ? static_cast<char>(suffix[0] - 'a' + 'A') : suffix[0]);
  const std::string_view rest = suffix.substr(1);
  if (power == std::string_view::npos || (!rest.empty() && rest != "B" && rest != "iB")) {
    return 0;
  }
  const bool decimal = rest == "B" || (lower && rest.empty());
  return std::pow(decimal ? 1000.0 : 1024.0, static_cast<double>(power + 1));
}

}  // namespace

Result<uint64_t> ParseByteSize(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto parsed = static_cast<size_t>(end - text.data());
  const double factor = SuffixFactor(text.substr(parsed));
  const double bytes = number * factor;
  constexpr double kLimit = 9.0e18;
  if (error != std::errc{} || factor == 0 || !(bytes >= 0 && bytes <= kLimit)) {
    return InvalidArgument("`{}` is not a size: write bytes, or a number with K, M, G or T", text);
  }
  return static_cast<uint64_t>(bytes);
}

std::string FormatByteSize(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

}  // namespace thermocline
