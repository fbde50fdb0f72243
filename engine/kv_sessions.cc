#include "engine/kv_sessions.h"

#include <optional>
#include <utility>

namespace thermocline {

KvSessions::KvSessions(KvStore& store, int page_tokens,
                       const std::array<uint32_t, kNumTiers>& page_bytes,
                       std::function<int64_t()> unix_seconds)
    : store_(store),
      page_tokens_(static_cast<uint64_t>(page_tokens)),
      page_bytes_(page_bytes),
      unix_seconds_(std::move(unix_seconds)) {}

void KvSessions::SetPinned(const std::vector<ContentHash>& pages, bool pinned) {
  for (const ContentHash& page : pages) {
    store_.pages->SetPinned(page, pinned);
  }
}

Result<SessionInfo> KvSessions::Save(const std::string& tenant, const std::string& id,
                                     std::vector<TokenId> tokens,
                                     const std::vector<ContentHash>& pages) {
  SavedSession session{
      .tenant = tenant, .id = id, .tokens = std::move(tokens), .saved_at_unix = unix_seconds_()};
  for (const ContentHash& page : pages) {
    const std::optional<BackingStore::Info> info = store_.pages->Find(page);
    if (!info.has_value()) {
      break;
    }
    session.bytes += page_bytes_[static_cast<size_t>(info->tier)];
    session.pages.push_back(page);
  }
  // Pinned first, so that what is saved now evicts none of it.
  SetPinned(session.pages, true);
  Status status = store_.pages->Flush();
  const Result<SavedSession> replaced = store_.sessions->Load(tenant, id);
  if (status.ok()) {
    status = store_.sessions->Save(session);
  }
  if (!status.ok()) {
    SetPinned(session.pages, false);
    return status;
  }
  if (replaced.ok()) {
    SetPinned(replaced->pages, false);
  }
  return Describe(InfoOf(session));
}

SessionInfo KvSessions::Describe(const SavedSessionInfo& session) const {
  return {.id = session.id,
          .num_tokens = session.num_tokens,
          .num_saved_tokens = session.pages.size() * page_tokens_,
          .bytes = session.bytes,
          .saved_at_unix = session.saved_at_unix};
}

Result<SavedSession> KvSessions::Load(const std::string& tenant, const std::string& id) {
  return store_.sessions->Load(tenant, id);
}

Result<SessionInfo> KvSessions::Delete(const std::string& tenant, const std::string& id) {
  const Result<SavedSession> session = store_.sessions->Load(tenant, id);
  if (!session.ok()) {
    return session.status();
  }
  RETURN_IF_ERROR(store_.sessions->Remove(tenant, id));
  SetPinned(session->pages, false);
  return Describe(InfoOf(*session));
}

std::vector<SessionInfo> KvSessions::List(const std::string& tenant) const {
  std::vector<SessionInfo> sessions;
  for (const SavedSessionInfo& session : store_.sessions->List(tenant)) {
    sessions.push_back(Describe(session));
  }
  return sessions;
}

}  // namespace thermocline
