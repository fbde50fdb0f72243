#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/store/file_io.h"
#include "kernels/base/status.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// What lies in a store's directory, for all models.
struct StoreSurvey {
  struct TierPages {
    uint64_t num_pages = 0;
    uint64_t bytes = 0;  // the files' size
  };
  // One model file with its page formats. Its times are files' times, which a read renews.
  struct Identity {
    ContentHash hash;
    std::array<TierPages, kNumTiers> tiers{};
    int64_t oldest_use_unix = 0;  // in seconds, over its pages; 0 without pages
    int64_t latest_use_unix = 0;
    uint64_t num_sessions = 0;
    uint64_t num_unreadable_pages = 0;  // files with a page's name that are none, closed folders
    uint64_t num_unreadable_sessions = 0;
  };
  struct Session {
    ContentHash identity;
    std::string file;    // its name, in its identity's folder of sessions
    std::string tenant;  // any bytes
    std::string id;      // see ValidSessionId
    uint64_t num_tokens = 0;
    std::vector<std::optional<Tier>> pages;  // in order; nothing: missing
    uint64_t bytes = 0;                      // its pages' size, as it was known when it was saved
    int64_t saved_at_unix = 0;               // what the record says: any number
  };

  std::vector<Identity> identities;  // sorted by digits
  std::vector<Session> sessions;     // newest first
};

// Reads a directory without a lock and writes nothing. It may run beside a server: a change that
// the server makes meanwhile is seen or not, page by page. Only a page's head is read, whose
// checksum cannot be tested. A session is read whole. What cannot be read is counted. kNotFound:
// there is no store.
Result<StoreSurvey> SurveyStore(FileIo& io, const std::string& directory);

}  // namespace thermocline
