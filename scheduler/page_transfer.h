#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/token.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

// Pages on their way to a store outside the arena, or back from there.

namespace thermocline {

// What is known of a full page beside its bytes.
struct PageContent {
  ContentHash hash;
  ContentHash previous;  // of the page before it, or its tenant's root
  std::string tenant;
  std::vector<TokenId> tokens;
  Tier loss = Tier::kHot;  // see PagePool
  int32_t first_position = 0;
  uint64_t checksum = 0;  // of the bytes, in the tier that they are in; 0 while hot
};

// To copy one page's bytes: kSave reads them at `place` for the store, kLoad writes what the store
// has under the hash to `place`, and so does kWake for a page that is read elsewhere meanwhile. The
// place is the page's until the transfer ends.
struct PageTransfer {
  enum class Kind : uint8_t { kSave, kLoad, kWake };
  Kind kind = Kind::kSave;
  PageId page = 0;
  PageEntry place;
  PageContent content;  // loss and checksum of a load or wake: what its end has found
};

// `ok`: the store has the page, or its bytes are in the place. Otherwise nothing is lost: the page
// stays where it is, or is computed again.
struct FinishedTransfer {
  PageTransfer transfer;
  bool ok = false;
};

// What a store says that it has. Called by the engine thread for each page of each prompt that is
// admitted: it may not wait.
class PageFinder {
 public:
  struct Info {
    Tier tier = Tier::kHot;
    Tier loss = Tier::kHot;  // not below `tier`
  };

  virtual ~PageFinder() = default;
  virtual std::optional<Info> Find(const ContentHash& hash) const = 0;
  // A pinned page stays there. Pins nest. See StorePin.
  virtual void SetPinned(const ContentHash& hash, bool pinned) = 0;
};

// Pins a page in a store for as long as it lives. Move-only; the store outlives it.
class StorePin {
 public:
  StorePin(PageFinder& store, const ContentHash& hash) : store_(&store), hash_(hash) {
    store.SetPinned(hash, true);
  }
  StorePin(StorePin&& other) noexcept
      : store_(std::exchange(other.store_, nullptr)), hash_(other.hash_) {}
  StorePin& operator=(StorePin&& other) noexcept {
    Release();
    store_ = std::exchange(other.store_, nullptr);
    hash_ = other.hash_;
    return *this;
  }
  StorePin(const StorePin&) = delete;
  StorePin& operator=(const StorePin&) = delete;
  ~StorePin() { Release(); }

  const ContentHash& hash() const { return hash_; }

 private:
  void Release() {
    if (store_ != nullptr) {
      std::exchange(store_, nullptr)->SetPinned(hash_, false);
    }
  }

  PageFinder* store_;  // null: moved from
  ContentHash hash_;
};

}  // namespace thermocline
