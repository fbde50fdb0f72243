#include "engine/kv/kv_sessions.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace thermocline {
namespace {

// Why a page that was to be had is not in the store: memory was full of pages that no disk takes.
Status NoRoom(const BackingStore& store) {
  const StoreUsage usage = store.usage();
  return usage.disk_failing ? Unavailable("a page is not on disk: {}", usage.last_error)
                            : ResourceExhausted("the page store has no room for a page");
}

}  // namespace

KvSessions::KvSessions(KvStore& store, int page_tokens,
                       const std::array<uint32_t, kNumTiers>& page_bytes,
                       std::function<int64_t()> unix_seconds, const PageNames& names,
                       std::function<void(const std::string&)> log)
    : store_(store),
      page_tokens_(static_cast<uint64_t>(page_tokens)),
      page_bytes_(page_bytes),
      unix_seconds_(std::move(unix_seconds)),
      names_(names),
      log_(std::move(log)) {}

void KvSessions::SetPinned(const std::vector<ContentHash>& names, bool pinned) {
  for (const ContentHash& name : names) {
    store_.pages->SetPinned(name, pinned);
  }
}

std::vector<ContentHash> KvSessions::Hold(const std::vector<ContentHash>& pages) {
  std::vector<ContentHash> held;
  for (const ContentHash& page : pages) {
    for (const Tier tier : {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive}) {
      held.push_back(names_.NameOf(page, tier));
      if (const std::optional<ContentHash> older = names_.OlderNameOf(page, tier)) {
        held.push_back(*older);
      }
    }
  }
  SetPinned(held, true);
  return held;
}

void KvSessions::Release(const std::vector<ContentHash>& names) { SetPinned(names, false); }

void KvSessions::MovePins(const std::optional<SavedSessionInfo>& from,
                          const std::optional<SavedSessionInfo>& to) {
  if (to.has_value()) {
    SetPinned(to->pages, true);
  }
  if (from.has_value()) {
    SetPinned(from->pages, false);
  }
}

void KvSessions::Verify(const std::vector<ContentHash>& pages) {
  for (const ContentHash& page : pages) {
    // A copy that turns out lost is not found again; there may be a worse one.
    while (const std::optional<PageNames::Stored> found = names_.Find(*store_.pages, page)) {
      const Status status = store_.pages->Verify(found->name);
      if (status.code() != StatusCode::kDataLoss) {
        break;
      }
      if (log_) {
        log_(status.message());
      }
    }
  }
}

Status KvSessions::Answer(const Status& status) const {
  switch (status.code()) {
    case StatusCode::kOk:
    case StatusCode::kNotFound:
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
      return status;
    default:
      if (log_) {
        log_(status.message());
      }
      return status.code() == StatusCode::kDataLoss
                 ? DataLoss("the session is damaged and cannot be read")
                 : Unavailable(
                       "the disk of the page store failed{}; what was saved before is as it was",
                       status.code() == StatusCode::kResourceExhausted ? ": it is full" : "");
  }
}

Status KvSessions::SavePages(SavedSession& session, const std::vector<ContentHash>& pages) {
  for (const ContentHash& page : pages) {
    const std::optional<PageNames::Stored> stored = names_.Find(*store_.pages, page);
    const Status on_disk =
        stored.has_value() ? store_.pages->Flush(stored->name) : NoRoom(*store_.pages);
    if (on_disk.code() == StatusCode::kResourceExhausted) {
      return ResourceExhausted(
          "the page store has no room for the {} pages of session {}: raise --kv-store-disk-bytes "
          "and --kv-store-memory-bytes, or delete sessions; what was saved before is as it was",
          pages.size(), session.id);
    }
    if (!on_disk.ok()) {
      return Answer(on_disk);
    }
    session.bytes += page_bytes_[static_cast<size_t>(stored->info.tier)];
    session.pages.push_back(stored->name);
  }
  return {};
}

Result<SessionInfo> KvSessions::Save(const std::string& tenant, const std::string& id,
                                     std::vector<TokenId> tokens,
                                     const std::vector<ContentHash>& pages) {
  const uint64_t num_full = tokens.empty() ? 0 : (tokens.size() - 1) / page_tokens_;
  if (num_full == 0) {
    return FailedPrecondition(
        "session {} has {} tokens: nothing is kept of less than a page of {} and one more", id,
        tokens.size(), page_tokens_);
  }
  if (pages.empty()) {
    return FailedPrecondition(
        "nothing of session {} is in memory or in the page store any more: send its conversation "
        "again, then save it; what was saved before is as it was",
        id);
  }
  SavedSession session{
      .tenant = tenant, .id = id, .tokens = std::move(tokens), .saved_at_unix = unix_seconds_()};
  RETURN_IF_ERROR(SavePages(session, pages));
  const std::scoped_lock lock(mutex_);
  const std::optional<SavedSessionInfo> before = store_.sessions->Find(tenant, id);
  const Status status = store_.sessions->Save(session);
  // Whatever it says: what is on disk now needs its pages.
  MovePins(before, store_.sessions->Find(tenant, id));
  if (!status.ok()) {
    return Answer(status);
  }
  SessionInfo info = Describe(InfoOf(session));
  if (pages.size() < num_full) {
    info.warning = fmt::format(
        "{} of {} full pages are saved: the others are neither in memory nor in the page store",
        pages.size(), num_full);
  }
  return info;
}

SessionInfo KvSessions::Describe(const SavedSessionInfo& session) const {
  uint64_t num_there = 0;
  while (num_there < session.pages.size() &&
         store_.pages->Find(session.pages[num_there]).has_value()) {
    ++num_there;
  }
  return {.id = session.id,
          .num_tokens = session.num_tokens,
          .num_saved_tokens = num_there * page_tokens_,
          .bytes = session.bytes,
          .saved_at_unix = session.saved_at_unix};
}

Result<SavedSession> KvSessions::Load(const std::string& tenant, const std::string& id) {
  const std::scoped_lock lock(mutex_);
  const std::optional<SavedSessionInfo> before = store_.sessions->Find(tenant, id);
  Result<SavedSession> session = store_.sessions->Load(tenant, id);
  if (session.ok()) {
    return session;
  }
  if (!store_.sessions->Find(tenant, id).has_value()) {
    MovePins(before, std::nullopt);
  }
  return Answer(session.status());
}

Result<SessionInfo> KvSessions::Delete(const std::string& tenant, const std::string& id) {
  const std::scoped_lock lock(mutex_);
  const std::optional<SavedSessionInfo> session = store_.sessions->Find(tenant, id);
  if (const Status status = store_.sessions->Remove(tenant, id); !status.ok()) {
    return Answer(status);
  }
  MovePins(session, std::nullopt);
  return session.has_value() ? Describe(*session) : SessionInfo{.id = id};
}

std::vector<SessionInfo> KvSessions::List(const std::string& tenant) const {
  std::vector<SessionInfo> sessions;
  for (const SavedSessionInfo& session : store_.sessions->List(tenant)) {
    sessions.push_back(Describe(session));
  }
  return sessions;
}

}  // namespace thermocline
