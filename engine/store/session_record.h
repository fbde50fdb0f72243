#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// A conversation that can be taken up again: its tokens and the names of its full pages.
struct SavedSession {
  std::string tenant;  // at most kMaxTenantBytes
  std::string id;      // see ValidSessionId
  std::vector<TokenId> tokens;
  std::vector<ContentHash> pages;  // in order; no more than tokens
  int64_t saved_at_unix = 0;       // seconds
  uint64_t bytes = 0;              // its pages' size, as it was known when it was saved

  bool operator==(const SavedSession&) const = default;
};

struct SessionLimits {
  size_t max_sessions_per_tenant = 1024;
  size_t max_sessions = 16384;  // over all tenants
  size_t max_tokens = 0;        // in one session
};

// The most tokens of a session that is read from disk. It does not depend on --max-model-len, so
// that a session stays one however low that is today. No model has a longer context.
inline constexpr SessionLimits kAnySession{.max_tokens = size_t{1} << 24};

// 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', and neither "." nor "..": clients take these out of
// a URL, so that nobody could restore or delete such a session.
bool ValidSessionId(std::string_view id);

// kInvalidArgument: the session is not within `limits`.
Status CheckSession(const SavedSession& session, const SessionLimits& limits);
uint64_t MaxSessionRecordBytes(const SessionLimits& limits);

// Writes and reads one session as one run of bytes (docs/store_format.md). Errors are DecodePage's.
std::vector<std::byte> EncodeSession(const ContentHash& identity, const SavedSession& session);
Result<SavedSession> DecodeSession(const ContentHash& identity, std::span<const std::byte> record,
                                   const SessionLimits& limits);

}  // namespace thermocline
