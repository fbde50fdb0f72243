#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/kv_store.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// A conversation that was saved under a name.
struct SessionInfo {
  std::string id;
  uint64_t num_tokens = 0;           // of the whole conversation
  uint64_t num_restored_tokens = 0;  // that a restore has brought into the arena, or found there
  uint64_t num_saved_tokens = 0;     // whose pages are in the store
  uint64_t bytes = 0;                // of these pages
  int64_t saved_at_unix = 0;         // seconds
};

// Called on a thread of the engine's; posts and returns.
using SessionCallback = std::function<void(Result<SessionInfo>)>;
using SessionListCallback = std::function<void(Result<std::vector<SessionInfo>>)>;

// Saved conversations: which they are, and that the pages of each stay in the store. All calls but
// Load, Describe and List are made one at a time, by PageIo's saving thread; they may take long.
class KvSessions {
 public:
  // `store` outlives it. `page_bytes`: of one page, by tier. `unix_seconds`: the time now.
  KvSessions(KvStore& store, int page_tokens, const std::array<uint32_t, kNumTiers>& page_bytes,
             std::function<int64_t()> unix_seconds);

  // Of `pages`, those that the store has up to the first that it has not: they are pinned, on disk
  // where there is one, and known under this name when this returns. Replaces what had the name.
  Result<SessionInfo> Save(const std::string& tenant, const std::string& id,
                           std::vector<TokenId> tokens, const std::vector<ContentHash>& pages);
  Result<SavedSession> Load(const std::string& tenant, const std::string& id);
  // The pages stay, as long as there is room.
  Result<SessionInfo> Delete(const std::string& tenant, const std::string& id);
  SessionInfo Describe(const SavedSessionInfo& session) const;
  std::vector<SessionInfo> List(const std::string& tenant) const;  // newest first

 private:
  void SetPinned(const std::vector<ContentHash>& pages, bool pinned);

  KvStore& store_;
  uint64_t page_tokens_;
  std::array<uint32_t, kNumTiers> page_bytes_;
  std::function<int64_t()> unix_seconds_;
};

}  // namespace thermocline
