#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// `1073741824`, `1.5G`, `512MiB`: K, M, G and T (or KiB...) are powers of 1024; KB... and, as vLLM
// has it, lower-case k... are powers of 1000.
Result<uint64_t> ParseByteSize(std::string_view text);

// For people: `1.50 GiB`.
std::string FormatByteSize(uint64_t bytes);

}  // namespace thermocline
