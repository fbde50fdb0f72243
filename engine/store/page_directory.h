#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/store/file_io.h"
#include "engine/store/page_index.h"
#include "engine/store/page_record.h"
#include "kernels/base/status.h"

namespace thermocline {

// The files of a BackingStore, locked for as long as this lives:
//   lock, hash.key, hash.key.copy
//   <identity>/<first 2 digits of the hash>/<other 30>.page
// No name holds anything but hex digits of digests. Read and Touch may be called on any thread, all
// else on one at a time.
//
// A file that cannot be read costs what is in it and nothing else, and stays: it may be read
// another day. So do pages of a later program. Damaged ones are removed.
class PageDirectory {
 public:
  struct File {
    PageIndex::File file;
    int64_t modified_ns = 0;
  };
  // What Open found.
  struct Found {
    std::vector<File> files;    // the least recently used first
    size_t num_damaged = 0;     // removed
    size_t num_unreadable = 0;  // files, and folders that cannot be looked into
  };
  // For the rest see BackingStore::Create.
  static Result<PageDirectory> Open(const std::string& directory, const ContentHash& identity,
                                    const PageLimits& limits, uint64_t fresh_key, FileIo& io);

  const Found& found() const { return found_; }
  uint64_t hash_key() const { return hash_key_; }

  // Removes pages of other identities that none of their sessions needs, whole identities at a
  // time and the oldest first, until what other identities hold is within `max_bytes` or needed.
  // Tells `notice` before. Returns the bytes that other identities hold then.
  uint64_t BoundOthers(uint64_t max_bytes, const std::function<void(const std::string&)>& notice);

  // Writes a page. After an error the old page is there, unchanged, or the new one, which may not
  // outlive a crash: Look tells.
  Status Write(const ContentHash& hash, const StoredPage& page);
  // Reads a page. kNotFound; kDataLoss: it is damaged; kInternal: the device fails to read it, or
  // it is no regular file; else errors of FileIo::ReadFile and DecodePage.
  Result<StoredPage> Read(const ContentHash& hash) const;
  // Reads the head of the file that a hash names. kNotFound: there is none.
  Result<PageIndex::File> Look(const ContentHash& hash) const;
  // Marks the page as just used, for the order of found().
  void Touch(const ContentHash& hash) const;
  Status Remove(const ContentHash& hash);

 private:
  PageDirectory(std::string directory, const ContentHash& identity, const PageLimits& limits,
                FileIo& io);
  void RemoveTornKeys();
  Status ReadHashKey(uint64_t fresh_key);
  Status MakeHashKey(uint64_t fresh_key);
  Status WriteMissingKeys();
  Status ScanIdentity();
  void ScanFolder(const std::string& digits);
  bool IsOfALaterProgram(const ContentHash& hash, const Result<PageHead>& head,
                         uint64_t file_bytes) const;
  void ScanFile(const std::string& digits, const FileIo::Entry& entry);
  std::string FolderOf(const ContentHash& hash) const;
  std::string PathOf(const ContentHash& hash) const;

  std::string root_;
  std::string folder_;  // this identity's
  ContentHash identity_;
  PageLimits limits_;
  FileIo* io_;  // never null
  std::unique_ptr<FileLock> lock_;
  uint64_t hash_key_ = 0;
  Found found_;
};

}  // namespace thermocline
