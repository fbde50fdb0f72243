#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/status.h"

namespace thermocline {

// A conversation that was saved under a name.
struct SessionInfo {
  std::string id;
  uint64_t num_tokens = 0;           // the whole conversation's
  uint64_t num_restored_tokens = 0;  // that a restore has brought into the arena, or found there
  uint64_t num_saved_tokens = 0;     // whose pages are in the store now, from the first on
  uint64_t bytes = 0;                // what its pages take
  int64_t saved_at_unix = 0;         // seconds
  std::string warning;               // what of it was not saved or restored; empty: nothing
};

// Called on a thread of the engine's; posts and returns.
using SessionCallback = std::function<void(Result<SessionInfo>)>;
using SessionListCallback = std::function<void(Result<std::vector<SessionInfo>>)>;

}  // namespace thermocline
