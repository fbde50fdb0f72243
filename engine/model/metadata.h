#pragma once

#include <cstdint>
#include <string>

#include "engine/loader/checkpoint.h"
#include "kernels/base/status.h"

// Reading metadata with bounds. `out` keeps its value where an optional key is absent.

namespace thermocline {

bool HasKey(const Checkpoint& checkpoint, const std::string& key);
Status ReadRequiredInt(const Checkpoint& checkpoint, const std::string& key, int64_t min,
                       int64_t max, int& out);
Status ReadOptionalInt(const Checkpoint& checkpoint, const std::string& key, int64_t min,
                       int64_t max, int64_t& out);
// A number for each layer, which files give as one or as an array: all must be equal.
// kUnimplemented where they differ.
Status ReadUniformInt(const Checkpoint& checkpoint, const std::string& key, int num_layers,
                      int64_t min, int64_t max, int& out);
Status ReadOptionalFloat(const Checkpoint& checkpoint, const std::string& key, double& out);
Status ReadOptionalString(const Checkpoint& checkpoint, const std::string& key, std::string& out);

}  // namespace thermocline
