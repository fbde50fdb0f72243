#pragma once

#include <cstdint>

namespace thermocline {

// An index into a model's vocabulary.
using TokenId = int32_t;

}  // namespace thermocline
