#pragma once

#include <array>
#include <optional>

#include "engine/kv_cache.h"
#include "engine/store/backing_store.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Under which name the store outside the arena has a page. Hot bytes mean the same whatever the
// formats; coded ones mean nothing without them, so that a coded page's name is its hash mixed with
// the formats of its tier: warm pages have the mean keys, colder ones the layers' codecs too. So
// pages of other formats lie in the same store and are never read as what they are not.
class PageNames {
 public:
  PageNames() = default;  // hashes as they are: for stores with one kind of formats
  explicit PageNames(const KvFormats& formats);

  ContentHash NameOf(const ContentHash& hash, Tier tier) const;

  struct Stored {
    ContentHash name;
    BackingStore::Info info;
  };
  // The best copy: the least loss, then the hotter tier.
  std::optional<Stored> Find(const BackingStore& store, const ContentHash& hash) const;
  // Of all names that the page may have.
  void SetPinned(BackingStore& store, const ContentHash& hash, bool pinned) const;

 private:
  std::array<ContentHash, kNumTiers> salts_{};
};

}  // namespace thermocline
