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

// What lies in a store's directory, whichever model it is of.
struct StoreSurvey {
  struct TierPages {
    uint64_t num_pages = 0;
    uint64_t bytes = 0;  // of the files
  };
  // One model file with its page formats. Its times are files' times, which a read renews.
  struct Identity {
    ContentHash hash;
    std::array<TierPages, kNumTiers> tiers{};
    int64_t oldest_use_unix = 0;  // of its pages, in seconds; 0 without pages
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
    uint64_t bytes = 0;                      // of its pages, as whoever saved it knew
    int64_t saved_at_unix = 0;               // as recorded: any number
  };

  std::vector<Identity> identities;  // by digits
  std::vector<Session> sessions;     // newest first
};

// Reads without a lock and writes nothing: beside a server too, whose changes in the meantime are
// seen or not, page by page. Of a page its head is read, whose checksum cannot be tested. A session
// is read whole. What cannot be read is counted. kNotFound: there is no store.
Result<StoreSurvey> SurveyStore(FileIo& io, const std::string& directory);

}  // namespace thermocline
