#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/base/status.h"

// Messages for a path that was given as a model and is no GGUF file that can be read.

namespace thermocline {

// "magic: ...": says what the bytes seem to be, since they do not begin like GGUF, and what helps.
Status NotGguf(std::span<const std::byte> bytes);

// "version: ...": says that the file's version is neither 2 nor 3.
Status UnreadableVersion(uint32_t version);

// Says that the path is a directory, and which GGUF files are in it.
Status IsDirectory(const std::string& path);

// The name of GGUF's tensor type ("Q2_K"), or its number where it has none.
std::string TensorTypeName(uint32_t type);

// The names of the types that can be read, with commas.
std::string ReadableTensorTypes();

}  // namespace thermocline
