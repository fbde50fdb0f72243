#pragma once

#include <cstdio>
#include <cstdlib>

namespace thermocline {

// Ends the process: a broken invariant means that no later result can be trusted.
[[noreturn]] inline void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace thermocline

// For what only a bug can cause, in release builds too. What outside input or a full machine can
// cause is a Status (kernels/base/status.h).
#define CHECK(condition)                             \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::thermocline::CheckFailed(#condition, __FILE__, __LINE__))
