#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
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

// What a reader accepts that reads pages whatever they have been through.
inline constexpr Tier kAnyTier = Tier::kArchive;

class PagePool;

// A page move that has begun: a new place is reserved for the page, which stays what it was to
// everybody. Unless the move is committed it is aborted with this object, and the place is given
// back. Move-only; the pool outlives it.
class PendingMove {
 public:
  PendingMove(PendingMove&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), move_(other.move_) {}
  PendingMove& operator=(PendingMove&& other) noexcept {
    Abort();
    pool_ = std::exchange(other.pool_, nullptr);
    move_ = other.move_;
    return *this;
  }
  PendingMove(const PendingMove&) = delete;
  PendingMove& operator=(const PendingMove&) = delete;
  ~PendingMove() { Abort(); }

  const PageMove& move() const { return move_; }  // what to copy
  // To be called once, between steps, when the new place holds the page's bytes, whose checksum
  // this is. The old place is free at once: no step that could read it may be in flight. False when
  // a reader that has come since refuses the new tier: the move is then aborted.
  [[nodiscard]] bool Commit(uint64_t checksum) &&;

 private:
  friend class PagePool;
  PendingMove(PagePool& pool, const PageMove& move) : pool_(&pool), move_(move) {}
  void Abort();

  PagePool* pool_;  // null: committed, or moved from
  PageMove move_;
};

// The one owner of page state: readers, tiers and places (the page map), content hashes, last use.
// Not thread-safe: only the engine thread calls it.
//
// A page is free (no place), referenced, or cached: without references but with a content hash, so
// that a later prompt may find it. Cached pages are evicted, least recently used first, when no
// free place is left. Hashed pages form trees (a page under the page before it); a page is evicted
// with all that hangs below it, for without it those could never be found again. Releasing a
// sequence's last page first makes leaves the older, so that they go before their parents.
// A page moves between tiers in two calls: BeginMove reserves the new place, PendingMove::Commit
// switches the page map to it. In between the page is what it was to everybody else; released or
// evicted, it only stays without an owner until the move ends. The same holds while a page's bytes
// are read to be kept outside the arena (BeginSave) or come back from there (BeginLoad); a page
// does one of the three at a time.
//
// A page's loss is the coldest tier that its values have been through, or those of pages that they
// were computed from when they were: kHot means exact. It never falls but when bytes of less loss
// come back from a store. Each reference says the most loss that its reader accepts, and no page
// ever has more than all its readers accept: a move that would give it more is not begun, and one
// that a new reader refuses is aborted where it would have been committed.
// Invariants: Audit().
class PagePool {
 public:
  // `page_bytes`: of one page by tier; hot must not be 0. `smallest_page_bytes`: that SetPageBytes
  // may ask for; 0: none is smaller than these.
  PagePool(const KvLayout& layout, std::span<const uint32_t, kNumTiers> page_bytes,
           uint64_t arena_bytes, uint32_t smallest_page_bytes = 0);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Other sizes of pages, in tiers that have none now: see Scheduler::DropCodedPages.
  void SetPageBytes(std::span<const uint32_t, kNumTiers> page_bytes) {
    arena_.SetPageBytes(page_bytes);
  }

  // A hot page with one reference, whose reader accepts loss up to `accepted`; its bytes are
  // undefined. Cached pages are evicted for it. Nothing when even then no hot place is free.
  std::optional<PageId> Allocate(Tier accepted);
  // As many superblocks are left empty by Allocate, so that demotions find room: see
  // TierController.
  void set_reserved_superblocks(uint64_t count) { num_reserved_superblocks_ = count; }
  // Allocate, from the reserve too.
  std::optional<PageId> AllocateFromReserve(Tier accepted);
  // Only for readers that accept the page's loss.
  void AddRef(PageId page, Tier accepted);
  // `accepted`: as the reference was taken. At zero references a hashed page stays, cached; any
  // other is freed.
  void Release(PageId page, Tier accepted);

  // Says that a step computes positions of a referenced page from pages of this loss.
  void NoteComputed(PageId page, Tier loss);
  // Says that all positions of a referenced page are written: from now on it may move.
  // `first_position`: of the page's first token, the same in every sequence that will share it.
  void MarkFull(PageId page, int32_t first_position);
  // Reserves a place in `to`, which may be the page's own tier, for a full page. Nothing when the
  // arena has no room there, when a reader refuses that tier, when the page is moving already, when
  // it has failed to move before, or when a better tier is asked for: that would restore nothing.
  // Never evicts, and leaves `keep_empty` superblocks empty.
  std::optional<PendingMove> BeginMove(PageId page, Tier to, uint64_t keep_empty = 0);
  // The page stays where it is, for good: its values cannot be coded.
  void Pin(PageId page);
  // Moves that bring the pages of one sparse superblock together with others of their tier; at most
  // `max_moves`. The superblock can be lent again when all have been committed.
  // Pages that are not full are moved as well, so no step may run before all have ended.
  std::vector<PendingMove> BeginCompaction(Tier tier, size_t max_moves);

  // Says that a page's bytes are being read for a store outside the arena: it keeps its place until
  // EndSave. False when it does something else already. For full pages.
  bool BeginSave(PageId page);
  // `saved`: the store has them.
  void EndSave(PageId page, bool saved);
  // A page with one reference and a place in `tier` whose bytes are to come from such a store.
  // Nobody may read it until EndLoad. Cached pages are evicted for it; nothing when even then there
  // is no place.
  std::optional<PageId> BeginLoad(Tier tier, Tier accepted);
  // `loss`, `checksum`: of what was loaded; 0 for hot bytes. False when the reader refuses it, for
  // it is not what the store had said: the load is then aborted.
  [[nodiscard]] bool EndLoad(PageId page, Tier loss, uint64_t checksum);
  void AbortLoad(PageId page);  // its bytes are undefined; it is not full and must be released
  // Reserves a place in `tier` for an archived page whose bytes are to come back from such a store.
  // The page stays readable where it is until EndWake. Cached pages are evicted for it; nothing
  // when even then there is no place, or when the page does something else.
  std::optional<PageEntry> BeginWake(PageId page, Tier tier);
  // Between steps: as PendingMove::Commit.
  [[nodiscard]] bool EndWake(PageId page, Tier loss, uint64_t checksum);
  void AbortWake(PageId page);
  bool is_waking(PageId page) const { return pages_[page].work == Work::kWake; }
  // Whether a store outside the arena has the bytes of this page, in this tier or a better one.
  bool is_saved(PageId page) const { return pages_[page].saved; }
  // What a store has to keep beside the bytes.
  int32_t first_position(PageId page) const { return pages_[page].first_position; }
  uint64_t checksum(PageId page) const { return pages_[page].checksum; }
  size_t num_transferring() const { return num_transferring_; }  // saves, loads, wakes in flight

  bool is_full(PageId page) const { return pages_[page].full; }
  bool is_pinned(PageId page) const { return pages_[page].pinned; }
  Tier loss(PageId page) const { return pages_[page].loss; }
  bool is_lossy(PageId page) const { return pages_[page].loss > Tier::kHot; }
  // The most loss that all its readers accept.
  Tier accepted(PageId page) const;
  // The coldest tier that the page may be moved to now: hot when it may not move at all.
  Tier coldest_allowed(PageId page) const { return coldest_allowed_[page]; }
  // How often the loss of any page changed, other than by NoteComputed. Until it rises, what was
  // read of losses still holds.
  uint64_t num_loss_changes() const { return num_loss_changes_; }
  Tier tier(PageId page) const { return page_map_[page].tier(); }
  // It moves, or is being saved, loaded or woken.
  bool is_moving(PageId page) const { return pages_[page].work != Work::kNone; }
  bool is_saving(PageId page) const { return pages_[page].work == Work::kSave; }
  uint32_t generation(PageId page) const { return pages_[page].generation; }
  size_t num_moving() const { return num_moving_; }

  // How strongly recent queries attended to a page, and when it last moved; the policy's to read.
  struct Heat {
    float peak = 0;  // see TierPolicy; at step `peak_step`, halved every kHeatHalfLife steps
    float mean = 0;  // the latest sample's mean over layers and heads
    uint64_t peak_step = 0;
    uint64_t move_step = 0;  // when the page last changed its tier; 0: never
    int num_jumps =
        0;  // latest samples that stood out among the archived: StoreTraffic::WakeJumped
  };
  const Heat& heat(PageId page) const { return heats_[page]; }
  Heat& heat(PageId page) { return heats_[page]; }

  // Makes a referenced, full page findable. `parent`: the hashed page before it, if it is not the
  // first. False, and nothing changes, when another page has this hash: the first stays.
  bool SetHash(PageId page, const ContentHash& hash, std::optional<PageId> parent);
  std::optional<PageId> Find(const ContentHash& hash) const;
  bool is_hashed(PageId page) const { return pages_[page].hashed; }
  const ContentHash& hash(PageId page) const { return pages_[page].hash; }  // while it is hashed

  // Indexed by PageId. The data pointer is the same for the pool's life: kernels read it.
  std::span<const PageEntry> page_map() const { return page_map_; }
  const KvLayout& layout() const { return layout_; }
  const Arena& arena() const { return arena_; }
  size_t NumPagesFor(size_t num_tokens) const {
    const auto page_tokens = static_cast<size_t>(layout_.page_tokens);
    return (num_tokens + page_tokens - 1) / page_tokens;
  }
  uint64_t PageBytes(Tier tier) const {
    return uint64_t{arena_.units_per_page(tier)} * kArenaUnitBytes;
  }

  size_t num_pages() const { return num_pages_; }  // that the arena holds, all hot
  size_t num_free() const;                         // hot pages to be had without eviction
  size_t num_evictable() const { return num_evictable_; }
  // Bytes of evictable pages that are cold or archived.
  uint64_t cold_evictable_bytes() const { return cold_evictable_units_ * kArenaUnitBytes; }
  // The least recently used cached pages, oldest first.
  std::vector<PageId> OldestCached(size_t max_pages) const;
  // Nobody finds the page any more; cached, it is freed, with all below it in the tree.
  void Forget(PageId page);
  int num_refs(PageId page) const { return pages_[page].refs; }
  uint64_t num_evictions() const { return num_evictions_; }

  // Verifies every invariant exactly, in time linear in the pool: each unit free xor in one page's
  // place, each page in one state, lists and trees well formed. For tests.
  Status Audit() const;

 private:
  static constexpr PageId kNone = ~PageId{0};
  static constexpr PageEntry kNoPlace{Tier::kBacked, 0};
  enum class Work : uint8_t { kNone, kMove, kSave, kLoad, kWake };
  struct Page {
    int refs = 0;
    bool allocated = false;
    bool hashed = false;
    bool full = false;
    bool pinned = false;
    bool saved = false;
    Tier loss = Tier::kHot;
    Work work = Work::kNone;
    std::array<int, kNumTiers> readers{};  // of refs, by the most loss that they accept
    PageEntry move_to;                     // reserved, while moving or waking
    uint32_t generation = 0;               // moves ended since the page was allocated
    uint64_t checksum = 0;                 // of the bytes, once they are coded
    int32_t first_position = 0;            // once full
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

  uint64_t PlacesHeldBack() const;
  void Free(PageId page);
  PageId TakePlace(PageEntry place, Tier accepted);
  std::optional<PendingMove> StartMove(PageId page, Tier to, uint64_t keep_empty = 0);
  friend class PendingMove;  // it alone ends moves
  bool CommitMove(const PageMove& move, uint64_t checksum);
  void AbortMove(const PageMove& move) { EndMove(move, move.from, move.to); }
  void EndMove(const PageMove& move, PageEntry kept, PageEntry given_back);
  void EndTransfer(PageId page, Work work);
  bool Accepts(PageId page, Tier loss) const { return loss <= accepted(page); }
  void SetLoss(PageId page, Tier loss);
  std::optional<PageEntry> AllocateEvicting(Tier tier);
  void SwitchPlace(PageId page, PageEntry kept, PageEntry given_back);
  void Evict(PageId page);
  void SetWork(PageId page, Work work);
  // Computes coldest_allowed_: after any change of what it depends on.
  void UpdateAllowed(PageId page);
  Tier AllowedNow(PageId page) const;
  // What an evictable page in its place adds to cold_evictable_units_.
  uint64_t ColdUnits(PageId page) const {
    return tier(page) >= Tier::kCold ? arena_.units_per_page(tier(page)) : 0;
  }
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
  // As page_map_. Apart from the rest of a page, for policies read these of every page.
  std::vector<Heat> heats_;
  std::vector<Tier> coldest_allowed_;
  std::vector<PageId> page_at_;  // by arena unit where a page starts; kNone elsewhere
  std::vector<PageId> free_ids_;
  std::unordered_map<ContentHash, PageId, HashOfContent> by_hash_;
  PageId oldest_ = kNone;  // ends of the list of cached pages
  PageId newest_ = kNone;
  size_t num_evictable_ = 0;
  uint64_t cold_evictable_units_ = 0;
  size_t num_moving_ = 0;
  size_t num_transferring_ = 0;
  uint64_t num_loss_changes_ = 1;
  uint64_t num_reserved_superblocks_ = 0;
  uint64_t clock_ = 0;
  uint64_t num_evictions_ = 0;
  std::vector<PageId> evicting_;  // scratch of Evict
};

}  // namespace thermocline
