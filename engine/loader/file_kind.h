#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/base/status.h"

// What to say about something that was named as a model and is no GGUF file that can be read.

namespace thermocline {

// "magic: ...": what the bytes, which do not begin as GGUF does, seem to be, and what helps.
Status NotGguf(std::span<const std::byte> bytes);

// "version: ...", of one that is neither 2 nor 3.
Status UnreadableVersion(uint32_t version);

// A directory was named: which GGUF files are in it.
Status IsDirectory(const std::string& path);

// The name of GGUF's tensor type ("Q2_K"), or its number where it has none.
std::string TensorTypeName(uint32_t type);

// The names of the types that can be read, with commas.
std::string ReadableTensorTypes();

}  // namespace thermocline
