#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "engine/store/page_record.h"
#include "scheduler/page_pool.h"

namespace thermocline {

struct HashOfContentHash {
  size_t operator()(const ContentHash& hash) const { return hash.low; }  // is random already
};

// Keeps for BackingStore where each page is. Moves no bytes itself. Not thread-safe.
//
// A page is clean (in its file), pending (its file is to be written) or unwritten (there is no
// directory, or its write failed). Files are counted apart from pages: a page that was erased or
// replaced leaves a file behind until the writer has settled its hash. A page whose better copy
// could not be written falls back on the file that it has, once that copy leaves memory.
// Invariant: every hash whose file is not as its page wants it is queued or being settled, unless
// its write has failed.
class PageIndex {
 public:
  struct Page {
    Tier tier = Tier::kHot;
    Tier loss = Tier::kHot;
    bool unreadable = false;  // its file was not to be read: it counts, and nobody finds it
    uint64_t generation = 0;  // this content's number: no other content ever has it
    uint64_t bytes = 0;       // its record's size
    // Null: in its file alone. Shared because who reads or writes it does so without the lock,
    // while a better copy may take its place.
    std::shared_ptr<const StoredPage> content;
    bool on_disk = false;
    bool pending = false;
  };
  // `has_files`: pages have files. Without files none is ever pending.
  explicit PageIndex(bool has_files) : has_files_(has_files) {}

  const Page* Find(const ContentHash& hash) const;
  // Adds or replaces; the page is the most recently used one, and queued if there are files.
  void Add(const ContentHash& hash, std::shared_ptr<const StoredPage> content);
  // A file that holds a page, which is not there: the most recently used one.
  struct File {
    PageHead head;
    uint64_t bytes = 0;
    bool unreadable = false;  // only the hash is known of its head
  };
  void AddFile(const File& file);
  // Nobody finds the page any more; its file stays, for it may be read another day.
  void SetUnreadable(const ContentHash& hash);
  // A page in memory whose file turned out lost is pending again.
  void Rewrite(const ContentHash& hash);
  // Forgets the page. Its file, if there may be one, is queued.
  void Erase(const ContentHash& hash);
  // Makes the page the most recently used. `hit`: it is also passed over once when a page is to be
  // erased.
  void Use(const ContentHash& hash, bool hit);
  void SetPinned(const ContentHash& hash, bool pinned);  // counted

  // Makes room in memory: the least recently used clean page leaves it and stays on disk; when
  // there is none, the least valuable unwritten page without pins falls back on its file or is
  // erased.
  enum class Freed : uint8_t { kNothing, kCopy, kPage };
  Freed FreeMemory();
  // Erases the least valuable page on disk without pins. Its file is left to the caller, who may
  // find that it cannot be removed, and AddFile it again.
  std::optional<File> EvictFromDisk();

  // The next hash to settle; it is no longer queued.
  std::optional<ContentHash> TakeQueued();
  // Tells how a page's write went. No matter if its content has been replaced or erased since.
  void NoteWritten(const ContentHash& hash, uint64_t generation, bool ok);
  // Tells what file there is at a hash's place; nothing: none.
  void NoteFile(const ContentHash& hash, const std::optional<File>& file);
  uint64_t file_bytes(const ContentHash& hash) const;
  std::optional<File> file(const ContentHash& hash) const;
  // Makes all unwritten pages pending again.
  void RequeueUnwritten();
  bool HasUnwritten() const;

  // The bytes that pins keep on disk, as far as the files tell.
  uint64_t pinned_disk_bytes() const;

  size_t num_pages() const { return pages_.size(); }
  size_t num_evictable() const { return evictable_.size(); }
  size_t num_memory_pages() const { return num_memory_pages_; }
  uint64_t memory_bytes() const { return memory_bytes_; }
  size_t num_files() const { return files_.size(); }
  uint64_t disk_bytes() const { return disk_bytes_; }
  size_t num_queued() const { return queue_.size(); }
  uint64_t num_ever_queued() const { return num_ever_queued_; }

 private:
  using HashList = std::list<ContentHash>;  // least recently used first
  // A page's position in one list, or in none.
  struct Place {
    HashList* list = nullptr;
    HashList::iterator position;
  };
  struct Entry : Page {
    bool hit = false;
    Place in_memory;  // clean_ or unwritten_
    Place on_device;  // evictable_
  };
  using Entries = std::unordered_map<ContentHash, Entry, HashOfContentHash>;

  void Queue(const ContentHash& hash);
  void DropContent(Entry& entry);
  void SetToFile(Entry& entry, const File& file);
  void Remove(Entries::iterator entry);
  // Puts the page into the lists it belongs to, at the recent end of one it comes to.
  void Sort(const ContentHash& hash, Entry& entry);
  // The first page of a list that was not hit. Pages before it lose their mark and become last.
  Entries::iterator TakeVictim(HashList& list);

  const bool has_files_;
  Entries pages_;
  std::unordered_map<ContentHash, uint32_t, HashOfContentHash> pins_;  // never 0
  std::unordered_map<ContentHash, File, HashOfContentHash> files_;
  HashList clean_;      // in memory and in their files
  HashList unwritten_;  // without pins
  HashList evictable_;  // in their files, without pins
  std::deque<ContentHash> queue_;
  std::unordered_set<ContentHash, HashOfContentHash> queued_;  // the hashes in queue_
  uint64_t next_generation_ = 1;
  uint64_t num_ever_queued_ = 0;
  size_t num_memory_pages_ = 0;
  uint64_t memory_bytes_ = 0;
  uint64_t disk_bytes_ = 0;
};

}  // namespace thermocline
