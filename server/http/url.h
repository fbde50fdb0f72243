#pragma once

#include <string>
#include <string_view>

namespace thermocline {

// The path of a request target: without query and fragment, percent-decoded. A target in absolute
// form loses its scheme and host. An invalid escape stays as it is.
std::string UrlPath(std::string_view target);

}  // namespace thermocline
