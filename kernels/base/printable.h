#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace thermocline {

// Text of a file or a request as it may stand in an error line or a log: at most `max_bytes` of it,
// "..." behind what was cut, and every byte that is not plain ASCII, or is a backslash, as "\xNN".
// So it cannot forge a line, clear a terminal or fill a disk.
std::string Printable(std::string_view untrusted, size_t max_bytes = 80);

}  // namespace thermocline
