#include "engine/store/page_directory.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "engine/store/record.h"
#include "engine/store/store_layout.h"

namespace thermocline {
namespace {

constexpr RecordKind kKeyKind{.magic = "THRMHKEY", .version = 1, .name = "hash key"};
constexpr uint64_t kMaxKeyFileBytes = 256;

// Damage, or a page that a newer program wrote here: either way it is in the way.
bool IsNoPage(const Status& status) {
  return status.code() == StatusCode::kDataLoss || status.code() == StatusCode::kUnimplemented ||
         status.code() == StatusCode::kFailedPrecondition;
}

// Only what the store itself writes: whatever else somebody put there stays, and its folder too.
Status RemoveIdentity(FileIo& io, const std::string& path) {
  const Result<std::vector<FileIo::Entry>> folders = io.List(path);
  if (!folders.ok()) {
    return folders.status();
  }
  for (const FileIo::Entry& folder : *folders) {
    if (!IsPageFolder(folder)) {
      continue;
    }
    const std::string folder_path = path + "/" + folder.name;
    const Result<std::vector<FileIo::Entry>> files = io.List(folder_path);
    if (!files.ok()) {
      return files.status();
    }
    for (const FileIo::Entry& file : *files) {
      if (IsPageFile(file) || IsTemporaryFile(file)) {
        RETURN_IF_ERROR(io.Remove(folder_path + "/" + file.name));
      }
    }
    (void)io.Remove(folder_path);  // fails when something else is in it
  }
  (void)io.Remove(path);
  return {};
}

struct IdentitySize {
  std::string path;
  uint64_t bytes = 0;
  int64_t modified_ns = 0;  // of its newest page
};

Result<IdentitySize> MeasureIdentity(FileIo& io, const std::string& path) {
  const Result<std::vector<FileIo::Entry>> folders = io.List(path);
  if (!folders.ok()) {
    return folders.status();
  }
  IdentitySize size{.path = path};
  for (const FileIo::Entry& folder : *folders) {
    if (!IsPageFolder(folder)) {
      continue;
    }
    const Result<std::vector<FileIo::Entry>> files = io.List(path + "/" + folder.name);
    if (!files.ok()) {
      return files.status();
    }
    for (const FileIo::Entry& file : *files) {
      size.bytes += file.is_directory ? 0 : file.bytes;
      size.modified_ns = std::max(size.modified_ns, file.modified_ns);
    }
  }
  return size;
}

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
                                          uint64_t max_other_bytes, FileIo& io) {
  PageDirectory opened(directory, identity, limits, io);
  RETURN_IF_ERROR(io.MakeDirectories(directory));
  Result<std::unique_ptr<FileLock>> lock = io.Lock(directory + "/" + std::string(kLockFile));
  if (!lock.ok()) {
    return lock.status();
  }
  opened.lock_ = std::move(*lock);
  RETURN_IF_ERROR(opened.ReadHashKey(fresh_key));
  RETURN_IF_ERROR(opened.BoundOthers(max_other_bytes));
  RETURN_IF_ERROR(opened.ScanIdentity());
  return opened;
}

Status PageDirectory::ReadHashKey(uint64_t fresh_key) {
  const std::string path = root_ + "/hash.key";
  const Result<std::vector<std::byte>> bytes = io_->ReadHead(path, kMaxKeyFileBytes);
  if (bytes.ok()) {
    Result<RecordReader> reader = OpenRecord(kKeyKind, ContentHash{}, *bytes);
    if (reader.ok() && reader->num_left() == sizeof(hash_key_)) {
      hash_key_ = reader->Take<uint64_t>();
      return {};
    }
    if (reader.status().code() == StatusCode::kUnimplemented) {
      return reader.status();  // a newer program's pages are not ours to throw away
    }
  } else if (bytes.status().code() != StatusCode::kNotFound) {
    return bytes.status();
  }
  // Without the key that named them, no page can ever be found again. They go first: a crash in
  // between comes here again.
  RETURN_IF_ERROR(RemoveAllIdentities());
  hash_key_ = fresh_key;
  RecordWriter writer(kKeyKind, ContentHash{}, sizeof(hash_key_));
  writer.Add(hash_key_);
  return WriteWholeFile(*io_, path, std::move(writer).Seal());
}

Status PageDirectory::RemoveAllIdentities() {
  const Result<std::vector<FileIo::Entry>> entries = io_->List(root_);
  if (!entries.ok()) {
    return entries.status();
  }
  for (const FileIo::Entry& entry : *entries) {
    if (IsIdentityFolder(entry)) {
      RETURN_IF_ERROR(RemoveIdentity(*io_, root_ + "/" + entry.name));
    }
  }
  return {};
}

Status PageDirectory::BoundOthers(uint64_t max_bytes) {
  const Result<std::vector<FileIo::Entry>> entries = io_->List(root_);
  if (!entries.ok()) {
    return entries.status();
  }
  std::vector<IdentitySize> others;
  for (const FileIo::Entry& entry : *entries) {
    const std::string path = root_ + "/" + entry.name;
    if (IsIdentityFolder(entry) && path != folder_) {
      const Result<IdentitySize> size = MeasureIdentity(*io_, path);
      if (!size.ok()) {
        return size.status();
      }
      others.push_back(*size);
    }
  }
  std::sort(others.begin(), others.end(), [](const IdentitySize& a, const IdentitySize& b) {
    return a.modified_ns > b.modified_ns;
  });
  for (const IdentitySize& other : others) {
    if (found_.other_bytes + other.bytes <= max_bytes) {
      found_.other_bytes += other.bytes;
    } else {
      RETURN_IF_ERROR(RemoveIdentity(*io_, other.path));
    }
  }
  return {};
}

Status PageDirectory::ScanIdentity() {
  const Result<std::vector<FileIo::Entry>> folders = ListIfThere(*io_, folder_);
  if (!folders.ok()) {
    return folders.status();
  }
  for (const FileIo::Entry& folder : *folders) {
    if (IsPageFolder(folder)) {
      RETURN_IF_ERROR(ScanFolder(folder.name));
    }
  }
  std::sort(found_.files.begin(), found_.files.end(),
            [](const File& a, const File& b) { return a.modified_ns < b.modified_ns; });
  return {};
}

Status PageDirectory::ScanFolder(const std::string& digits) {
  const std::string folder = folder_ + "/" + digits;
  const Result<std::vector<FileIo::Entry>> entries = io_->List(folder);
  if (!entries.ok()) {
    return entries.status();
  }
  for (const FileIo::Entry& entry : *entries) {
    const std::string path = folder + "/" + entry.name;
    if (IsTemporaryFile(entry)) {
      RETURN_IF_ERROR(io_->Remove(path));
    }
    if (!IsPageFile(entry)) {
      continue;
    }
    const Result<PageHead> head = ReadPageHead(path, entry.bytes);
    if (head.ok() && PathOf(head->hash) == path) {
      found_.files.push_back(
          {.head = *head, .bytes = entry.bytes, .modified_ns = entry.modified_ns});
    } else if (head.ok() || IsNoPage(head.status())) {
      ++found_.num_damaged;
      RETURN_IF_ERROR(io_->Remove(path));
    } else {
      return head.status();
    }
  }
  return {};
}

Result<PageHead> PageDirectory::ReadPageHead(const std::string& path, uint64_t file_bytes) {
  const Result<std::vector<std::byte>> head = io_->ReadHead(path, kPageHeadBytes);
  if (!head.ok()) {
    return head.status();
  }
  return DecodePageHead(identity_, *head, file_bytes, limits_);
}

Status PageDirectory::Write(const ContentHash& hash, const StoredPage& page) {
  const std::string path = PathOf(hash);
  const std::vector<std::byte> record = EncodePage(identity_, hash, page);
  Status status = WriteWholeFile(*io_, path, record);
  if (status.code() == StatusCode::kNotFound) {
    RETURN_IF_ERROR(io_->MakeDirectories(FolderOf(hash)));
    RETURN_IF_ERROR(io_->SyncDirectory(folder_));
    RETURN_IF_ERROR(io_->SyncDirectory(root_));
    status = WriteWholeFile(*io_, path, record);
  }
  if (!status.ok()) {
    (void)io_->Remove(path);  // an older copy, or a new one that may not last
  }
  return status;
}

Result<StoredPage> PageDirectory::Read(const ContentHash& hash) const {
  const std::string path = PathOf(hash);
  const Result<std::vector<std::byte>> record = io_->ReadFile(path, MaxPageRecordBytes(limits_));
  if (!record.ok()) {
    return record.status();
  }
  return DecodePage(identity_, hash, *record, limits_);
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
