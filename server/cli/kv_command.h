#pragma once

#include <cstdint>

#include "server/cli/command_line.h"

namespace thermocline {

// `thermocline kv`: what a store's directory holds, whichever model it is of, and its removal. ls
// and inspect may run beside a server; rm refuses to. `now_unix`: seconds. Returns the exit code: 1
// when there is no such thing, or it failed.
int RunKv(KvOptions options, int64_t now_unix);

}  // namespace thermocline
