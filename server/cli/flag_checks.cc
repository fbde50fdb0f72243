#include "server/cli/flag_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "server/cli/byte_size.h"
#include "server/http/origin_gate.h"

namespace thermocline {
namespace {

constexpr double kSmallestSeconds = 0.001;
constexpr double kDaySeconds = 86400;

std::optional<double> ParseNumber(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(number)) {
    return std::nullopt;
  }
  return number;
}

CLI::Validator RulesCheck(std::vector<std::string> OriginRules::*list, const std::string& name) {
  return {[list](std::string& text) {
            OriginRules rules;
            (rules.*list).push_back(text);
            return CheckOriginRules(rules).message();
          },
          name};
}

}  // namespace

CLI::Validator NumberFrom(double min, double max) {
  return {[min, max](std::string& text) {
            const std::optional<double> number = ParseNumber(text);
            return number && *number >= min && *number <= max
                       ? std::string()
                       : fmt::format("`{}` is not a number from {} to {}", text, min, max);
          },
          fmt::format("NUMBER in [{} - {}]", min, max)};
}

CLI::Validator ByteSizeFrom(uint64_t min, uint64_t max) {
  return {[min, max](std::string& text) {
            const Result<uint64_t> bytes = ParseByteSize(text);
            if (!bytes.ok()) {
              return bytes.status().message();
            }
            if (*bytes < min || *bytes > max) {
              return fmt::format("`{}` is not from {} to {}", text, FormatByteSize(min),
                                 FormatByteSize(max));
            }
            text = std::to_string(*bytes);
            return std::string();
          },
          "SIZE"};
}

CLI::Validator NotBlank() {
  return {[](std::string& text) {
            return std::string(text.find_first_not_of(" \t\r\n") == std::string::npos ? "is empty"
                                                                                      : "");
          },
          ""};
}

CLI::Validator OriginRule() { return RulesCheck(&OriginRules::allowed_origins, "ORIGIN"); }
CLI::Validator HostRule() { return RulesCheck(&OriginRules::allowed_hosts, "HOST"); }

void AddSeconds(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                const std::string& help, bool may_be_zero) {
  app.add_option_function<std::string>(
         name,
         [&value](const std::string& text) {
           value = std::chrono::milliseconds(
               static_cast<int64_t>(std::ceil(ParseNumber(text).value_or(0) * 1000)));
         },
         help)
      ->check(NumberFrom(may_be_zero ? 0 : kSmallestSeconds, kDaySeconds))
      ->type_name("SECONDS")
      ->default_str(std::to_string(value.count() / 1000));
}

}  // namespace thermocline
