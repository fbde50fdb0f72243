#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/store/file_io.h"
#include "kernels/base/status.h"
#include "scheduler/page_pool.h"

// Handles what lies in a store's directory beside the pages of the model that is served: pages of
// other models, and pages of this model as an earlier program kept them. Their sessions are read,
// so that a page that a session needs is never removed for room.

namespace thermocline {

// See PageDirectory::BoundOthers. `root`: the store's directory; `own`: not to be touched. What
// cannot be read stays.
uint64_t BoundOtherIdentities(FileIo& io, const std::string& root, const ContentHash& own,
                              uint64_t max_bytes,
                              const std::function<void(const std::string&)>& notice);

// All pages of all identities. kFailedPrecondition, before any is removed: some are needed by
// sessions.
Status RemoveUnneededIdentities(FileIo& io, const std::string& root);

}  // namespace thermocline
