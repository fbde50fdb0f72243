#include "engine/store/page_directory.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "engine/store/other_identities.h"
#include "engine/store/record.h"
#include "engine/store/store_layout.h"

namespace thermocline {
namespace {

constexpr RecordKind kKeyKind{.magic = "THRMHKEY", .version = 1, .name = "hash key"};
constexpr uint64_t kMaxKeyFileBytes = 256;

std::vector<std::byte> HashKeyRecord(uint64_t key) {
  RecordWriter writer(kKeyKind, ContentHash{}, sizeof(key));
  writer.Add(key);
  return std::move(writer).Seal();
}

constexpr std::string_view kKeyFiles[] = {"hash.key", "hash.key.copy"};

}  // namespace

PageDirectory::PageDirectory(std::string directory, const ContentHash& identity,
                             const PageLimits& limits, FileIo& io)
    : root_(std::move(directory)),
      folder_(root_ + "/" + HexDigits(identity)),
      identity_(identity),
      limits_(limits),
      io_(&io) {}

Result<PageDirectory> PageDirectory::Open(const std::string& directory, const ContentHash& identity,
                                          const PageLimits& limits, uint64_t fresh_key,
                                          FileIo& io) {
  PageDirectory opened(directory, identity, limits, io);
  RETURN_IF_ERROR(io.MakeDirectories(directory));
  Result<std::unique_ptr<FileLock>> lock = io.Lock(directory + "/" + std::string(kLockFile));
  if (!lock.ok()) {
    return lock.status();
  }
  opened.lock_ = std::move(*lock);
  opened.RemoveTornKeys();
  RETURN_IF_ERROR(opened.ReadHashKey(fresh_key));
  RETURN_IF_ERROR(opened.ScanIdentity());
  return opened;
}

// Removes key files that a crash left half written. Files of other names stay.
void PageDirectory::RemoveTornKeys() {
  const Result<std::vector<FileIo::Entry>> entries = io_->List(root_);
  if (!entries.ok()) {
    return;
  }
  for (const FileIo::Entry& entry : *entries) {
    if (IsTemporaryFile(entry) && entry.name.starts_with(kKeyFiles[0])) {
      (void)io_->Remove(root_ + "/" + entry.name);
    }
  }
}

// Reads the key from two files, because without it no page is ever found again. A good file mends
// the other.
Status PageDirectory::ReadHashKey(uint64_t fresh_key) {
  std::optional<uint64_t> key;
  Status unread;
  std::vector<std::string> bad;
  for (const std::string_view name : kKeyFiles) {
    const std::string path = root_ + "/" + std::string(name);
    const Result<std::vector<std::byte>> bytes = io_->ReadHead(path, kMaxKeyFileBytes);
    Result<RecordReader> reader =
        bytes.ok() ? OpenRecord(kKeyKind, ContentHash{}, *bytes) : bytes.status();
    if (reader.ok() && reader->num_left() == sizeof(hash_key_)) {
      const auto read = reader->Take<uint64_t>();
      key = key.value_or(read);
    } else if (reader.status().code() == StatusCode::kUnimplemented) {
      return reader.status();  // a newer program's pages are not ours to throw away
    } else if (!bytes.ok() && bytes.status().code() != StatusCode::kNotFound) {
      unread = bytes.status();  // it may be good all the same
    } else {
      bad.push_back(path);
    }
  }
  if (!key.has_value()) {
    return unread.ok() ? MakeHashKey(fresh_key) : unread;
  }
  hash_key_ = *key;
  for (const std::string& path : bad) {
    (void)WriteWholeFile(*io_, path, HashKeyRecord(hash_key_));  // the other is good
  }
  return {};
}

Status PageDirectory::MakeHashKey(uint64_t fresh_key) {
  // Pages were named with a key that is lost, so none can ever be found again. They are removed
  // before the new key is written: after a crash in between, the next start comes here again.
  RETURN_IF_ERROR(RemoveUnneededIdentities(*io_, root_));
  hash_key_ = fresh_key;
  for (const std::string_view name : kKeyFiles) {
    RETURN_IF_ERROR(
        WriteWholeFile(*io_, root_ + "/" + std::string(name), HashKeyRecord(hash_key_)));
  }
  return {};
}

// Writes key files that are not there: somebody may have removed the whole directory while it was
// in use.
Status PageDirectory::WriteMissingKeys() {
  for (const std::string_view name : kKeyFiles) {
    const std::string path = root_ + "/" + std::string(name);
    const Result<std::vector<std::byte>> there = io_->ReadHead(path, kMaxKeyFileBytes);
    if (there.status().code() == StatusCode::kNotFound) {
      RETURN_IF_ERROR(WriteWholeFile(*io_, path, HashKeyRecord(hash_key_)));
    }
  }
  return {};
}

uint64_t PageDirectory::BoundOthers(uint64_t max_bytes,
                                    const std::function<void(const std::string&)>& notice) {
  return BoundOtherIdentities(*io_, root_, identity_, max_bytes, notice);
}

Status PageDirectory::ScanIdentity() {
  const Result<std::vector<FileIo::Entry>> folders = ListIfThere(*io_, folder_);
  if (!folders.ok()) {
    return folders.status();
  }
  for (const FileIo::Entry& folder : *folders) {
    if (IsPageFolder(folder)) {
      ScanFolder(folder.name);
    }
  }
  std::sort(found_.files.begin(), found_.files.end(),
            [](const File& a, const File& b) { return a.modified_ns < b.modified_ns; });
  return {};
}

void PageDirectory::ScanFolder(const std::string& digits) {
  const std::string folder = folder_ + "/" + digits;
  const Result<std::vector<FileIo::Entry>> entries = io_->List(folder);
  if (!entries.ok()) {
    ++found_.num_unreadable;
    return;
  }
  for (const FileIo::Entry& entry : *entries) {
    if (IsTemporaryFile(entry)) {
      (void)io_->Remove(folder + "/" + entry.name);
    } else if (IsPageFile(entry)) {
      ScanFile(digits, entry);
    }
  }
}

// Whether a later program wrote the record. The checksum of the whole record tells that from a
// damaged version number.
bool PageDirectory::IsOfALaterProgram(const ContentHash& hash, const Result<PageHead>& head,
                                      uint64_t file_bytes) const {
  constexpr uint64_t kLargest = uint64_t{1} << 30;
  if (head.ok() || head.status().code() != StatusCode::kUnimplemented || file_bytes > kLargest) {
    return false;
  }
  const Result<std::vector<std::byte>> record = io_->ReadFile(PathOf(hash), kLargest);
  return !record.ok() || DecodePage(identity_, hash, *record, limits_).status().code() ==
                             StatusCode::kUnimplemented;
}

void PageDirectory::ScanFile(const std::string& digits, const FileIo::Entry& entry) {
  const std::string path = folder_ + "/" + digits + "/" + entry.name;
  const ContentHash hash = HashOfPageFile(digits, entry.name).value();
  const Result<std::vector<std::byte>> bytes = io_->ReadHead(path, kPageHeadBytes);
  const Result<PageHead> head =
      bytes.ok() ? DecodePageHead(identity_, *bytes, entry.bytes, limits_) : bytes.status();
  PageIndex::File file{.head = {.hash = hash}, .bytes = entry.bytes};
  if (head.ok() && head->hash == hash) {
    file.head = *head;
  } else if (!bytes.ok() || IsOfALaterProgram(hash, head, entry.bytes)) {
    ++found_.num_unreadable;
    file.unreadable = true;
  } else if (io_->Remove(path).ok()) {  // damaged, or a page that belongs elsewhere
    ++found_.num_damaged;
    return;
  } else {
    ++found_.num_damaged;
    file.unreadable = true;
  }
  found_.files.push_back({.file = file, .modified_ns = entry.modified_ns});
}

Status PageDirectory::Write(const ContentHash& hash, const StoredPage& page) {
  const std::string path = PathOf(hash);
  const std::vector<std::byte> record = EncodePage(identity_, hash, page);
  Status status = WriteWholeFile(*io_, path, record);
  if (status.code() == StatusCode::kNotFound) {
    RETURN_IF_ERROR(io_->MakeDirectories(FolderOf(hash)));
    RETURN_IF_ERROR(WriteMissingKeys());
    RETURN_IF_ERROR(io_->SyncDirectory(folder_));
    RETURN_IF_ERROR(io_->SyncDirectory(root_));
    status = WriteWholeFile(*io_, path, record);
  }
  return status;
}

Result<StoredPage> PageDirectory::Read(const ContentHash& hash) const {
  const Result<std::vector<std::byte>> record =
      io_->ReadFile(PathOf(hash), MaxPageRecordBytes(limits_));
  if (!record.ok()) {
    return record.status().code() == StatusCode::kDataLoss
               ? Status(StatusCode::kInternal, record.status().message())
               : record.status();
  }
  return DecodePage(identity_, hash, *record, limits_);
}

// Takes an entry of the listing, which has the file's length: the head has to fit that.
Result<PageIndex::File> PageDirectory::Look(const ContentHash& hash) const {
  const std::string folder = FolderOf(hash);
  const Result<std::vector<FileIo::Entry>> entries = ListIfThere(*io_, folder);
  if (!entries.ok()) {
    return entries.status();
  }
  const std::string path = PathOf(hash);
  for (const FileIo::Entry& entry : *entries) {
    if (folder + "/" + entry.name != path) {
      continue;
    }
    const Result<std::vector<std::byte>> bytes = io_->ReadHead(path, kPageHeadBytes);
    const Result<PageHead> head =
        bytes.ok() ? DecodePageHead(identity_, *bytes, entry.bytes, limits_) : bytes.status();
    if (!head.ok()) {
      return head.status();
    }
    return PageIndex::File{.head = *head, .bytes = entry.bytes};
  }
  return NotFound("{} is not there", path);
}

void PageDirectory::Touch(const ContentHash& hash) const {
  (void)io_->Touch(PathOf(hash));  // else it is taken for older after a restart
}

Status PageDirectory::Remove(const ContentHash& hash) { return io_->Remove(PathOf(hash)); }

std::string PageDirectory::FolderOf(const ContentHash& hash) const {
  return folder_ + "/" + HexDigits(hash).substr(0, kFolderDigits);
}

std::string PageDirectory::PathOf(const ContentHash& hash) const {
  return FolderOf(hash) + "/" + HexDigits(hash).substr(kFolderDigits) + std::string(kPageSuffix);
}

}  // namespace thermocline
