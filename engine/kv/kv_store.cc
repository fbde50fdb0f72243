#include "engine/kv/kv_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/store/posix_file_io.h"
#include "kernels/quant/rotation.h"
#include "scheduler/prefix_cache.h"

namespace thermocline {
namespace {

// Raised when the bytes of some codec change their meaning.
constexpr uint64_t kFormatsVersion = 2;
constexpr size_t kMaxNamedSessions = 8;  // in a notice

ContentHash DigestOf(std::span<const std::byte> bytes) {
  return PrefixCache::DefaultHash(bytes, 0);
}

template <typename T>
void Append(std::vector<std::byte>& bytes, const T& value) {
  const auto part = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), part.begin(), part.end());
}

// What the operator should know of sessions that were saved before this start.
void NoteSessions(const KvStore& store, const std::function<void(const std::string&)>& notice) {
  if (!notice) {
    return;
  }
  std::string names;
  size_t num_short = 0;
  const std::vector<SavedSessionInfo> sessions = store.sessions->all();
  for (const SavedSessionInfo& session : sessions) {
    const bool is_whole =
        std::all_of(session.pages.begin(), session.pages.end(),
                    [&](const ContentHash& page) { return store.pages->Find(page).has_value(); });
    if (!is_whole && num_short++ < kMaxNamedSessions) {
      names += (names.empty() ? "" : ", ") + session.id;
    }
  }
  if (num_short > 0) {
    notice(fmt::format(
        "of {} saved sessions {} can be restored in part or not at all, for pages of "
        "them are missing: {}{}",
        sessions.size(), num_short, names, num_short > kMaxNamedSessions ? ", and others" : ""));
  }
  if (store.sessions->num_unreadable() > 0) {
    notice(fmt::format("{} files of saved sessions cannot be read; they stay{}",
                       store.sessions->num_unreadable(),
                       store.sessions->num_unread() == 0
                           ? ""
                           : ", and so do all pages, for one of them may need them"));
  }
  const StoreUsage usage = store.pages->usage();
  if (usage.num_damaged + store.pages->num_unreadable() > 0) {
    notice(
        fmt::format("the page store had {} damaged pages, which are removed, and {} files or "
                    "folders that cannot be read, which stay",
                    usage.num_damaged, store.pages->num_unreadable()));
  }
}

}  // namespace

ContentHash KvIdentity(const ContentHash& model_digest, const KvLayout& layout) {
  std::vector<std::byte> parts;
  Append(parts, kFormatsVersion);
  Append(parts, model_digest);
  for (const int number :
       {layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.page_tokens}) {
    Append(parts, number);
  }
  Append(parts, kRotationSeed);
  return DigestOf(parts);
}

Result<KvStore> OpenKvStore(const KvStoreConfig& config, const ContentHash& identity,
                            const KvLayout& layout,
                            const std::array<uint32_t, kNumTiers>& page_bytes, int max_model_len,
                            uint64_t fresh_key) {
  KvStore store{.io = std::make_unique<PosixFileIo>()};
  // Pages of other formats are read too: no codec takes more than int8.
  std::array<uint32_t, kNumTiers> limits = page_bytes;
  limits[static_cast<size_t>(Tier::kCold)] = limits[static_cast<size_t>(Tier::kArchive)] =
      page_bytes[static_cast<size_t>(Tier::kWarm)];
  std::string directory;
  if (!config.directory.empty()) {
    // The directory itself may be a link, or lie behind one; below it none is followed.
    Result<std::string> resolved = ResolveDirectory(config.directory);
    if (!resolved.ok()) {
      return resolved.status();
    }
    directory = *std::move(resolved);
  }
  // Sessions first: what they need is known before anything is removed.
  Result<std::unique_ptr<SessionStore>> sessions = SessionStore::Create(
      directory, identity, *store.io, {.max_tokens = static_cast<size_t>(max_model_len)});
  if (!sessions.ok()) {
    return sessions.status();
  }
  store.sessions = *std::move(sessions);
  BackingStore::Config pages{
      .directory = directory,
      .memory_bytes = config.memory_bytes,
      .disk_bytes = config.disk_bytes,
      .identity = identity,
      .limits = {.page_tokens = static_cast<uint32_t>(layout.page_tokens), .page_bytes = limits},
      .fresh_key = fresh_key,
      .pins_found = store.sessions->num_unread() > 0,
      .notice = config.on_notice};
  for (const SavedSessionInfo& session : store.sessions->all()) {
    pages.pinned.insert(pages.pinned.end(), session.pages.begin(), session.pages.end());
  }
  Result<std::unique_ptr<BackingStore>> opened = BackingStore::Create(std::move(pages), *store.io);
  if (!opened.ok()) {
    return opened.status();
  }
  store.pages = *std::move(opened);
  NoteSessions(store, config.on_notice);
  return store;
}

}  // namespace thermocline
