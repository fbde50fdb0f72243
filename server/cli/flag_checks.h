#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <string>

namespace thermocline {

// What a flag's text must be; all of it, so that `nan`, `1x` and ` ` are errors. Each gives the
// value back as the library reads it.

// A finite number in [min, max].
CLI::Validator NumberFrom(double min, double max);
// See ParseByteSize; in [min, max].
CLI::Validator ByteSizeFrom(uint64_t min, uint64_t max);
CLI::Validator NotBlank();
// One of OriginRules::allowed_origins, allowed_hosts.
CLI::Validator OriginRule();
CLI::Validator HostRule();

// A duration in seconds, up to a day. Zero only where `may_be_zero`.
void AddSeconds(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                const std::string& help, bool may_be_zero = false);

}  // namespace thermocline
