#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/page_pool.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/queue_entry.h"

namespace thermocline {

// Fills and empties the page tables of sequences, and tells the pool and the prefix cache what the
// pages hold. Not thread-safe: only the engine thread calls it.
class PageTables {
 public:
  // All outlive it. `caches`: full pages are offered to the prefix cache and looked for there.
  PageTables(PagePool& pool, PrefixCache& prefix_cache, bool caches)
      : pool_(pool), prefix_cache_(prefix_cache), caches_(caches) {}

  // Pages that hold the start of the sequence already, with a reference taken on each: the prefix
  // cache's, then those of `leader`, the choice 0 that computes the same prompt (null: none runs).
  // Never all of the sequence: its last token has to be computed for its logits. `chain` becomes
  // the hash of the last page.
  std::vector<PageId> Share(const QueueEntry& entry, const Sequence* leader, ContentHash& chain);
  // Gives such pages to the entry, whose table is empty.
  void Adopt(QueueEntry& entry, const std::vector<PageId>& shared, const ContentHash& chain);
  // Gives them back.
  void Return(const QueueEntry& entry, const std::vector<PageId>& shared);

  // Allocates pages for up to `num_tokens` more, as far as hot pages are to be had; returns how
  // many of the tokens have pages then.
  int Extend(QueueEntry& entry, int num_tokens);
  // Before a step that computes `num_tokens` of the entry: what it computes has the greatest loss
  // of what it reads then, whatever becomes of those pages later.
  void NoteRead(QueueEntry& entry, int num_tokens);
  // After num_computed has grown: pages that are full now may move, and are offered to the prefix
  // cache. `step`: the next one.
  void NoteComputed(QueueEntry& entry, uint64_t step);

  // Releases the pages from `size` on, which were to come from the store and did not.
  void Truncate(QueueEntry& entry, size_t size);
  // Releases all pages; returns them in the order of their release, the last page of the table
  // first.
  std::vector<PageId> Release(QueueEntry& entry);

 private:
  void MarkFull(QueueEntry& entry, uint64_t step);
  void Hash(QueueEntry& entry);

  PagePool& pool_;
  PrefixCache& prefix_cache_;
  bool caches_;
};

}  // namespace thermocline
