#include "engine/store/page_index.h"

#include <utility>

#include "kernels/base/check.h"

namespace thermocline {

const PageIndex::Page* PageIndex::Find(const ContentHash& hash) const {
  const auto found = pages_.find(hash);
  return found == pages_.end() ? nullptr : &found->second;
}

void PageIndex::Add(const ContentHash& hash, std::shared_ptr<const StoredPage> content) {
  Entry& entry = pages_[hash];
  DropContent(entry);
  entry.tier = content->tier;
  entry.loss = content->loss;
  entry.unreadable = false;
  entry.generation = next_generation_++;
  entry.bytes = PageRecordBytes(*content);
  entry.content = std::move(content);
  entry.on_disk = false;
  entry.pending = has_files_;
  entry.hit = false;
  memory_bytes_ += entry.bytes;
  ++num_memory_pages_;
  Sort(hash, entry);
  if (has_files_) {
    Queue(hash);
  }
}

void PageIndex::AddFile(const File& file) {
  SetToFile(pages_[file.head.hash], file);
  Sort(file.head.hash, pages_[file.head.hash]);
  NoteFile(file.head.hash, file);
}

void PageIndex::SetToFile(Entry& entry, const File& file) {
  DropContent(entry);
  entry.tier = file.head.tier;
  entry.loss = file.head.loss;
  entry.unreadable = file.unreadable;
  entry.generation = next_generation_++;
  entry.bytes = file.bytes;
  entry.on_disk = true;
  entry.pending = false;
}

void PageIndex::SetUnreadable(const ContentHash& hash) {
  if (const auto found = pages_.find(hash); found != pages_.end() && found->second.on_disk) {
    DropContent(found->second);
    found->second.unreadable = true;
    files_.at(hash).unreadable = true;
    Sort(hash, found->second);
  }
}

void PageIndex::Rewrite(const ContentHash& hash) {
  Entry& entry = pages_.at(hash);
  entry.on_disk = false;
  entry.pending = has_files_;
  Sort(hash, entry);
  if (has_files_) {
    Queue(hash);
  }
}

void PageIndex::Erase(const ContentHash& hash) {
  const auto entry = pages_.find(hash);
  if (entry == pages_.end()) {
    return;
  }
  const bool may_have_file = entry->second.pending || files_.contains(hash);
  Remove(entry);
  if (may_have_file) {
    Queue(hash);
  }
}

void PageIndex::Use(const ContentHash& hash, bool hit) {
  const auto found = pages_.find(hash);
  if (found == pages_.end()) {
    return;
  }
  Entry& entry = found->second;
  entry.hit = entry.hit || hit;
  for (const Place& place : {entry.in_memory, entry.on_device}) {
    if (place.list != nullptr) {
      place.list->splice(place.list->end(), *place.list, place.position);
    }
  }
}

void PageIndex::SetPinned(const ContentHash& hash, bool pinned) {
  if (pinned) {
    ++pins_[hash];
  } else {
    const auto pin = pins_.find(hash);
    CHECK(pin != pins_.end());
    if (--pin->second == 0) {
      pins_.erase(pin);
    }
  }
  if (const auto found = pages_.find(hash); found != pages_.end()) {
    Sort(hash, found->second);
  }
}

PageIndex::Freed PageIndex::FreeMemory() {
  if (!clean_.empty()) {
    const auto oldest = pages_.find(clean_.front());
    DropContent(oldest->second);
    Sort(oldest->first, oldest->second);
    return Freed::kCopy;
  }
  if (!unwritten_.empty()) {
    const auto victim = TakeVictim(unwritten_);
    if (const auto file = files_.find(victim->first); file != files_.end()) {
      SetToFile(victim->second, file->second);
      Sort(victim->first, victim->second);
      return Freed::kCopy;
    }
    Erase(ContentHash(victim->first));
    return Freed::kPage;
  }
  return Freed::kNothing;
}

std::optional<PageIndex::File> PageIndex::EvictFromDisk() {
  if (evictable_.empty()) {
    return std::nullopt;
  }
  const auto victim = TakeVictim(evictable_);
  const File file = files_.at(victim->first);
  Remove(victim);
  return file;
}

PageIndex::Entries::iterator PageIndex::TakeVictim(HashList& list) {
  for (;;) {
    const auto oldest = pages_.find(list.front());
    if (!std::exchange(oldest->second.hit, false)) {
      return oldest;
    }
    list.splice(list.end(), list, list.begin());
  }
}

std::optional<ContentHash> PageIndex::TakeQueued() {
  if (queue_.empty()) {
    return std::nullopt;
  }
  const ContentHash hash = queue_.front();
  queue_.pop_front();
  queued_.erase(hash);
  return hash;
}

void PageIndex::NoteWritten(const ContentHash& hash, uint64_t generation, bool ok) {
  const auto found = pages_.find(hash);
  if (found != pages_.end() && found->second.generation == generation) {
    found->second.pending = false;
    found->second.on_disk = ok;
    Sort(hash, found->second);
  }
}

void PageIndex::NoteFile(const ContentHash& hash, const std::optional<File>& file) {
  disk_bytes_ = disk_bytes_ - file_bytes(hash) + (file.has_value() ? file->bytes : 0);
  if (file.has_value()) {
    files_[hash] = *file;
  } else {
    files_.erase(hash);
  }
}

uint64_t PageIndex::file_bytes(const ContentHash& hash) const {
  const auto found = files_.find(hash);
  return found == files_.end() ? 0 : found->second.bytes;
}

std::optional<PageIndex::File> PageIndex::file(const ContentHash& hash) const {
  const auto found = files_.find(hash);
  return found == files_.end() ? std::nullopt : std::optional(found->second);
}

uint64_t PageIndex::pinned_disk_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [hash, count] : pins_) {
    bytes += file_bytes(hash);
  }
  return bytes;
}

void PageIndex::RequeueUnwritten() {
  for (auto& [hash, entry] : pages_) {
    if (has_files_ && !entry.on_disk && !entry.pending) {
      entry.pending = true;
      Sort(hash, entry);
      Queue(hash);
    }
  }
}

bool PageIndex::HasUnwritten() const {
  for (const auto& [hash, entry] : pages_) {
    if (!entry.on_disk && !entry.pending) {
      return true;
    }
  }
  return false;
}

void PageIndex::Queue(const ContentHash& hash) {
  if (queued_.insert(hash).second) {
    queue_.push_back(hash);
    ++num_ever_queued_;
  }
}

void PageIndex::DropContent(Entry& entry) {
  if (entry.content != nullptr) {
    entry.content.reset();
    memory_bytes_ -= entry.bytes;
    --num_memory_pages_;
  }
}

void PageIndex::Remove(Entries::iterator entry) {
  DropContent(entry->second);
  entry->second.on_disk = false;
  Sort(entry->first, entry->second);
  pages_.erase(entry);
}

void PageIndex::Sort(const ContentHash& hash, Entry& entry) {
  const auto move_to = [&hash](Place& place, HashList* list) {
    if (place.list == list) {
      return;
    }
    if (place.list != nullptr) {
      place.list->erase(place.position);
    }
    place.list = list;
    if (list != nullptr) {
      place.position = list->insert(list->end(), hash);
    }
  };
  const bool pinned = pins_.contains(hash);
  HashList* memory_list = nullptr;
  if (entry.content != nullptr && !entry.pending) {
    memory_list = entry.on_disk ? &clean_ : (pinned ? nullptr : &unwritten_);
  }
  move_to(entry.in_memory, memory_list);
  move_to(entry.on_device, entry.on_disk && !pinned ? &evictable_ : nullptr);
}

}  // namespace thermocline
