#include "engine/kv_store.h"

#include <span>
#include <utility>
#include <vector>

#include "engine/store/posix_file_io.h"
#include "kernels/quant/rotation.h"
#include "scheduler/prefix_cache.h"

namespace thermocline {
namespace {

// Raised when the bytes of some codec change their meaning.
constexpr uint64_t kFormatsVersion = 1;

ContentHash DigestOf(std::span<const std::byte> bytes) {
  return PrefixCache::DefaultHash(bytes, 0);
}

template <typename T>
void Append(std::vector<std::byte>& bytes, const T& value) {
  const auto part = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), part.begin(), part.end());
}

}  // namespace

ContentHash KvIdentity(const ContentHash& model_digest, const KvLayout& layout,
                       const KvFormats& formats) {
  std::vector<std::byte> parts;
  Append(parts, kFormatsVersion);
  Append(parts, model_digest);
  for (const int number :
       {layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.page_tokens}) {
    Append(parts, number);
  }
  Append(parts, kRotationSeed);
  for (const Codec codec : formats.cold) {
    Append(parts, codec);
  }
  Append(parts, DigestOf(std::as_bytes(std::span(formats.mean_keys))));
  return DigestOf(parts);
}

Result<KvStore> OpenKvStore(const EngineConfig& config, const ContentHash& identity,
                            const KvLayout& layout,
                            const std::array<uint32_t, kNumTiers>& page_bytes, int max_model_len,
                            uint64_t fresh_key) {
  KvStore store{.io = std::make_unique<PosixFileIo>()};
  Result<std::unique_ptr<BackingStore>> pages =
      BackingStore::Create({.directory = config.kv_store_dir,
                            .memory_bytes = KvStoreMemoryBytes(config),
                            .disk_bytes = config.kv_store_disk_bytes,
                            .identity = identity,
                            .limits = {.page_tokens = static_cast<uint32_t>(layout.page_tokens),
                                       .page_bytes = page_bytes},
                            .fresh_key = fresh_key},
                           *store.io);
  if (!pages.ok()) {
    return pages.status();
  }
  store.pages = *std::move(pages);
  Result<std::unique_ptr<SessionStore>> sessions = SessionStore::Create(
      config.kv_store_dir, identity, *store.io, {.max_tokens = static_cast<size_t>(max_model_len)});
  if (!sessions.ok()) {
    return sessions.status();
  }
  store.sessions = *std::move(sessions);
  for (const SavedSessionInfo& session : store.sessions->all()) {
    for (const ContentHash& page : session.pages) {
      store.pages->SetPinned(page, true);
    }
  }
  return store;
}

}  // namespace thermocline
