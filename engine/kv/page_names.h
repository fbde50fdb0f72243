#pragma once

#include <array>
#include <optional>

#include "engine/kv/kv_cache.h"
#include "engine/store/backing_store.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Under which name the store outside the arena has a page. Hot bytes mean the same whatever the
// formats; coded ones mean nothing without them, so that a coded page's name is its hash mixed with
// the formats of its tier: warm pages have the mean keys, colder ones the layers' codecs too. So
// pages of other formats lie in the same store and are never read as what they are not. Warm and
// cold pages that were written in `older` formats are found too, where nothing better is: who reads
// them recodes them (PageRecoder).
class PageNames {
 public:
  PageNames() = default;  // hashes as they are: for stores with one kind of formats
  explicit PageNames(const KvFormats& formats);
  PageNames(const KvFormats& formats, const KvFormats& older);

  ContentHash NameOf(const ContentHash& hash, Tier tier) const;
  std::optional<ContentHash> OlderNameOf(const ContentHash& hash, Tier tier) const;

  struct Stored {
    ContentHash name;
    BackingStore::Info info;
  };
  // The best copy: exact before lossy, then the lower tier.
  std::optional<Stored> Find(const BackingStore& store, const ContentHash& hash) const;
  // Pins, or unpins, every name that the page may have.
  void SetPinned(BackingStore& store, const ContentHash& hash, bool pinned) const;

 private:
  using Salts = std::array<ContentHash, kNumTiers>;
  static Salts SaltsOf(const KvFormats& formats);

  Salts salts_{};
  std::optional<Salts> older_;
};

}  // namespace thermocline
