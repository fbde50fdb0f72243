#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/kv/kv_store.h"
#include "engine/kv/page_names.h"
#include "engine/kv/session_info.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Saved conversations: which they are, and that the pages of each stay in the store. Thread-safe;
// Verify, Save and Delete are called one at a time, by PageIo's saving thread. All but Hold,
// Release, Describe and List may take long.
//
// Errors are for who asks, perhaps over the network: they hold no path. What failed on a disk is
// told to `log` in full.
class KvSessions {
 public:
  // `store` outlives it. `page_bytes`: of one page, by tier. `unix_seconds`: the time now. `log`
  // may be empty.
  KvSessions(KvStore& store, int page_tokens, const std::array<uint32_t, kNumTiers>& page_bytes,
             std::function<int64_t()> unix_seconds, const PageNames& names = {},
             std::function<void(const std::string&)> log = {});

  // Other formats; while no other call is made (PageIo::WhileIdle).
  void SetFormats(const std::array<uint32_t, kNumTiers>& page_bytes, const PageNames& names) {
    page_bytes_ = page_bytes;
    names_ = names;
  }

  // A save takes three steps. While it lasts its pages are held: what is put evicts none of them.
  // Their names, to be released by.
  std::vector<ContentHash> Hold(const std::vector<ContentHash>& pages);
  void Release(const std::vector<ContentHash>& names);
  // Looks whether the store really has those of them that it knows, and forgets the others, so that
  // they are put again.
  void Verify(const std::vector<ContentHash>& pages);
  // All of `pages`, which are what the store or the arena had when the save began, are pinned, on
  // disk where there is one, and known under this name when this returns; or nothing has changed.
  // Replaces what had the name.
  Result<SessionInfo> Save(const std::string& tenant, const std::string& id,
                           std::vector<TokenId> tokens, const std::vector<ContentHash>& pages);

  Result<SavedSession> Load(const std::string& tenant, const std::string& id);
  // The pages stay, as long as there is room.
  Result<SessionInfo> Delete(const std::string& tenant, const std::string& id);
  SessionInfo Describe(const SavedSessionInfo& session) const;
  std::vector<SessionInfo> List(const std::string& tenant) const;  // newest first

 private:
  void SetPinned(const std::vector<ContentHash>& names, bool pinned);
  Status SavePages(SavedSession& session, const std::vector<ContentHash>& pages);
  // What to answer when a call on the stores failed.
  Status Answer(const Status& status) const;
  // Pins change from those of one session to those of another; nothing: none.
  void MovePins(const std::optional<SavedSessionInfo>& from,
                const std::optional<SavedSessionInfo>& to);

  KvStore& store_;
  uint64_t page_tokens_;
  std::array<uint32_t, kNumTiers> page_bytes_;
  std::function<int64_t()> unix_seconds_;
  PageNames names_;
  std::function<void(const std::string&)> log_;
  std::mutex mutex_;  // held while a session changes, so that pins are always those of the sessions
};

}  // namespace thermocline
