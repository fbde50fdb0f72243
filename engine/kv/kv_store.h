#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/kv/kv_cache.h"
#include "engine/store/backing_store.h"
#include "engine/store/file_io.h"
#include "engine/store/session_store.h"
#include "kernels/base/status.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// What outlives the arena: pages, and the conversations that were saved by name. Members are
// destroyed last to first: later ones borrow earlier ones.
struct KvStore {
  std::unique_ptr<FileIo> io;
  std::unique_ptr<BackingStore> pages;
  std::unique_ptr<SessionStore> sessions;
};

// Names what hot bytes mean: the model file, the pages' shape and the rotation. Pages of another
// identity are never read; what coded bytes mean beside that is in their names (PageNames).
ContentHash KvIdentity(const ContentHash& model_digest, const KvLayout& layout);

// Where pages that left the arena are kept.
struct KvStoreConfig {
  std::string directory;  // empty: in memory alone
  uint64_t memory_bytes = 0;
  uint64_t disk_bytes = 0;  // files in the directory
  // Told, while the store is opened, what the operator should read in the log. May be empty.
  std::function<void(const std::string&)> on_notice;
};

// Pins the pages of saved sessions before room is made for others. What is removed, or cannot be
// kept or restored, is told to config.on_notice, before it happens. Errors name the directory or
// the option that sets the limit.
Result<KvStore> OpenKvStore(const KvStoreConfig& config, const ContentHash& identity,
                            const KvLayout& layout,
                            const std::array<uint32_t, kNumTiers>& page_bytes, int max_model_len,
                            uint64_t fresh_key);

}  // namespace thermocline
