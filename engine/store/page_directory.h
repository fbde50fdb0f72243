#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/store/file_io.h"
#include "engine/store/page_record.h"
#include "kernels/base/status.h"

namespace thermocline {

// The files of a BackingStore, locked for as long as this lives:
//   lock, hash.key
//   <identity>/<first 2 digits of the hash>/<other 30>.page
// No name holds anything but hex digits of digests. Read and Touch may be called on any thread, all
// else on one at a time.
class PageDirectory {
 public:
  struct File {
    PageHead head;
    uint64_t bytes = 0;
    int64_t modified_ns = 0;
  };
  // What was there.
  struct Found {
    std::vector<File> files;   // the least recently used first
    size_t num_damaged = 0;    // removed
    uint64_t other_bytes = 0;  // of folders of other identities that were left
  };
  // `max_other_bytes`: that folders of other identities may keep. For the rest see
  // BackingStore::Create.
  static Result<PageDirectory> Open(const std::string& directory, const ContentHash& identity,
                                    const PageLimits& limits, uint64_t fresh_key,
                                    uint64_t max_other_bytes, FileIo& io);

  const Found& found() const { return found_; }
  uint64_t hash_key() const { return hash_key_; }

  // After an error there is no file of this hash.
  Status Write(const ContentHash& hash, const StoredPage& page);
  // Errors of FileIo::ReadFile and DecodePage.
  Result<StoredPage> Read(const ContentHash& hash) const;
  // Just used, for the order of found().
  void Touch(const ContentHash& hash) const;
  Status Remove(const ContentHash& hash);

 private:
  PageDirectory(std::string directory, const ContentHash& identity, const PageLimits& limits,
                FileIo& io);
  Status ReadHashKey(uint64_t fresh_key);
  Status RemoveAllIdentities();
  Status ScanIdentity();
  Status ScanFolder(const std::string& digits);
  Result<PageHead> ReadPageHead(const std::string& path, uint64_t file_bytes);
  Status BoundOthers(uint64_t max_bytes);
  std::string FolderOf(const ContentHash& hash) const;
  std::string PathOf(const ContentHash& hash) const;

  std::string root_;
  std::string folder_;  // of this identity
  ContentHash identity_;
  PageLimits limits_;
  FileIo* io_;  // never null
  std::unique_ptr<FileLock> lock_;
  uint64_t hash_key_ = 0;
  Found found_;
};

}  // namespace thermocline
