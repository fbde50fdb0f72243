#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/page_format.h"
#include "scheduler/arena.h"

namespace thermocline {

// Names the content of a full page: its tokens, all tokens before them, and whose they are.
struct ContentHash {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const ContentHash&) const = default;
};

// The one owner of page state: reference counts, tiers and places (the page map), content hashes,
// last use. Not thread-safe: only the engine thread calls it.
//
// A page is free (no place), referenced, or cached: without references but with a content hash, so
// that a later prompt may find it. Cached pages are evicted, least recently used first, when no
// free place is left. Hashed pages form trees (a page under the page before it); a page is evicted
// with all that hangs below it, for without it those could never be found again. Releasing a
// sequence's last page first makes leaves the older, so that they go before their parents.
// A page moves between tiers in two calls: BeginMove reserves the new place, CommitMove switches
// the page map (or AbortMove gives the new place back). In between the page is what it was to
// everybody else; released or evicted, it only stays without an owner until the move ends.
// Invariants: Audit().
class PagePool {
 public:
  // `page_bytes`: of one page by tier; hot must not be 0.
  PagePool(const KvLayout& layout, std::span<const uint32_t, kNumTiers> page_bytes,
           uint64_t arena_bytes);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A hot page with one reference; its bytes are undefined. Nothing when every page is referenced.
  std::optional<PageId> Allocate();
  void AddRef(PageId page);
  // At zero references a hashed page stays, cached; any other is freed.
  void Release(PageId page);

  // Reserves a place in `to` for a full page that is not being written. Nothing when the arena has
  // no room there or the page is moving already. Never evicts.
  std::optional<PageMove> BeginMove(PageId page, Tier to);
  // To be called between steps, when the new place holds the page's bytes. The old place is free at
  // once: no step that could read it may be in flight.
  void CommitMove(const PageMove& move);
  void AbortMove(const PageMove& move);
  bool is_moving(PageId page) const { return pages_[page].moving; }
  uint32_t generation(PageId page) const { return pages_[page].generation; }
  size_t num_moving() const { return num_moving_; }

  // Makes a referenced, full page findable. `parent`: the hashed page before it, if it is not the
  // first. False, and nothing changes, when another page has this hash: the first stays.
  bool SetHash(PageId page, const ContentHash& hash, std::optional<PageId> parent);
  std::optional<PageId> Find(const ContentHash& hash) const;
  bool is_hashed(PageId page) const { return pages_[page].hashed; }

  // Indexed by PageId. The data pointer is the same for the pool's life: kernels read it.
  std::span<const PageEntry> page_map() const { return page_map_; }
  const KvLayout& layout() const { return layout_; }
  const Arena& arena() const { return arena_; }

  size_t num_pages() const { return num_pages_; }  // that the arena holds, all hot
  size_t num_free() const;                         // hot pages to be had without eviction
  size_t num_evictable() const { return num_evictable_; }
  int num_refs(PageId page) const { return pages_[page].refs; }
  uint64_t num_evictions() const { return num_evictions_; }

  // Verifies every invariant exactly, in time linear in the pool: each unit free xor in one page's
  // place, each page in one state, lists and trees well formed. For tests.
  Status Audit() const;

 private:
  static constexpr PageId kNone = ~PageId{0};
  struct Page {
    int refs = 0;
    bool allocated = false;
    bool hashed = false;
    bool moving = false;
    PageEntry move_to;        // reserved, while moving
    uint32_t generation = 0;  // moves committed since the page was allocated
    ContentHash hash;
    uint64_t last_use = 0;  // rises with each release to zero references
    PageId older = kNone;   // neighbours in the list of cached pages
    PageId newer = kNone;
    PageId parent = kNone;  // the tree of hashed pages
    PageId first_child = kNone;
    PageId next_sibling = kNone;
    PageId previous_sibling = kNone;
  };
  struct HashOfContent {
    size_t operator()(const ContentHash& hash) const { return hash.low; }  // is random already
  };

  void Free(PageId page);
  void EndMove(const PageMove& move, PageEntry kept, PageEntry given_back);
  void Evict(PageId page);
  void AppendToLru(PageId page);
  void RemoveFromLru(PageId page);
  void LinkToParent(PageId page, PageId parent);
  void UnlinkFromParent(PageId page);
  Status AuditPages() const;
  Status AuditPlaces() const;
  Status AuditCache() const;

  KvLayout layout_;
  Arena arena_;
  size_t num_pages_;
  std::vector<PageEntry> page_map_;  // never resized; a free page's entry is kBacked
  std::vector<Page> pages_;          // as page_map_
  std::vector<PageId> free_ids_;
  std::unordered_map<ContentHash, PageId, HashOfContent> by_hash_;
  PageId oldest_ = kNone;  // ends of the list of cached pages
  PageId newest_ = kNone;
  size_t num_evictable_ = 0;
  size_t num_moving_ = 0;
  uint64_t clock_ = 0;
  uint64_t num_evictions_ = 0;
  std::vector<PageId> evicting_;  // scratch of Evict
};

}  // namespace thermocline
