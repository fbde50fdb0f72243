#pragma once

#include <span>
#include <string_view>

namespace thermocline {

// A file of the page to chat on, embedded in the binary.
struct Asset {
  std::string_view path;  // the URL's
  std::string_view content_type;
  std::string_view body;
};

std::span<const Asset> WebAssets();

}  // namespace thermocline
