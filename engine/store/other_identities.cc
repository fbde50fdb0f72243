#include "engine/store/other_identities.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <vector>

#include "engine/store/page_index.h"
#include "engine/store/session_record.h"
#include "engine/store/store_layout.h"

namespace thermocline {
namespace {

using Entries = std::vector<FileIo::Entry>;
using Hashes = std::unordered_set<ContentHash, HashOfContentHash>;

// The pages that the sessions of one identity need.
struct NeededPages {
  bool all = false;  // a session cannot be read, so that nobody knows
  Hashes hashes;

  bool empty() const { return !all && hashes.empty(); }
  bool contains(const ContentHash& hash) const { return all || hashes.contains(hash); }
};

NeededPages ReadNeededPages(FileIo& io, const std::string& root, const ContentHash& identity,
                            const std::string& digits) {
  NeededPages needed;
  const std::string sessions = root + "/" + std::string(kSessionsFolder);
  const Result<Entries> files = ListFolder(io, sessions, digits);
  if (!files.ok()) {
    return {.all = true};
  }
  const std::string folder = sessions + "/" + digits;
  for (const FileIo::Entry& file : *files) {
    if (!IsSessionFile(file)) {
      continue;
    }
    const Result<std::vector<std::byte>> record =
        io.ReadFile(folder + "/" + file.name, MaxSessionRecordBytes(kAnySession));
    const Result<SavedSession> session =
        record.ok() ? DecodeSession(identity, *record, kAnySession) : record.status();
    if (session.ok()) {
      needed.hashes.insert(session->pages.begin(), session->pages.end());
    } else {
      needed.all |= !record.ok() || session.status().code() != StatusCode::kDataLoss;
    }
  }
  return needed;
}

// The page files of one identity, apart by whether a session needs them.
struct IdentityFiles {
  std::string path;
  std::vector<std::string> free_files;  // their paths
  uint64_t free_bytes = 0;
  uint64_t needed_bytes = 0;
  int64_t modified_ns = 0;  // its newest page's
};

void AddFolder(FileIo& io, const std::string& path, const std::string& folder,
               const NeededPages& needed, IdentityFiles& found) {
  const std::string folder_path = path + "/" + folder;
  const Result<Entries> files = io.List(folder_path);
  if (!files.ok()) {
    return;  // it stays
  }
  for (const FileIo::Entry& file : *files) {
    // Only what the store itself writes: whatever else somebody put there stays.
    const bool is_page = IsPageFile(file);
    if (!is_page && !IsTemporaryFile(file)) {
      continue;
    }
    found.modified_ns = std::max(found.modified_ns, file.modified_ns);
    if (is_page && needed.contains(*HashOfPageFile(folder, file.name))) {
      found.needed_bytes += file.bytes;
    } else {
      found.free_bytes += file.bytes;
      found.free_files.push_back(folder_path + "/" + file.name);
    }
  }
}

IdentityFiles ListIdentity(FileIo& io, const std::string& path, const NeededPages& needed) {
  IdentityFiles found{.path = path};
  if (const Result<Entries> folders = io.List(path); folders.ok()) {
    for (const FileIo::Entry& folder : *folders) {
      if (IsPageFolder(folder)) {
        AddFolder(io, path, folder.name, needed, found);
      }
    }
  }
  return found;
}

// Removes files that no session needs. Returns the bytes that could not be removed.
uint64_t RemoveFreeFiles(FileIo& io, const IdentityFiles& files) {
  size_t num_left = 0;
  for (const std::string& file : files.free_files) {
    num_left += io.Remove(file).ok() ? 0 : 1;
  }
  // Removing a folder fails when something is in it.
  if (const Result<Entries> folders = io.List(files.path); folders.ok()) {
    for (const FileIo::Entry& folder : *folders) {
      if (IsPageFolder(folder)) {
        (void)io.Remove(files.path + "/" + folder.name);
      }
    }
  }
  (void)io.Remove(files.path);
  return num_left == 0 ? 0 : files.free_bytes;
}

std::vector<IdentityFiles> ListIdentities(FileIo& io, const std::string& root,
                                          const std::optional<ContentHash>& but) {
  std::vector<IdentityFiles> found;
  const Result<Entries> entries = io.List(root);
  if (!entries.ok()) {
    return found;
  }
  for (const FileIo::Entry& entry : *entries) {
    const std::optional<ContentHash> identity = ParseHexDigits(entry.name);
    if (IsIdentityFolder(entry) && identity != but) {
      found.push_back(ListIdentity(io, root + "/" + entry.name,
                                   ReadNeededPages(io, root, *identity, entry.name)));
    }
  }
  std::sort(found.begin(), found.end(), [](const IdentityFiles& a, const IdentityFiles& b) {
    return a.modified_ns > b.modified_ns;
  });
  return found;
}

}  // namespace

uint64_t BoundOtherIdentities(FileIo& io, const std::string& root, const ContentHash& own,
                              uint64_t max_bytes,
                              const std::function<void(const std::string&)>& notice) {
  const std::vector<IdentityFiles> others = ListIdentities(io, root, own);
  uint64_t bytes = 0;
  for (const IdentityFiles& other : others) {
    bytes += other.needed_bytes;
  }
  for (const IdentityFiles& other : others) {
    if (bytes + other.free_bytes <= max_bytes) {
      bytes += other.free_bytes;
      continue;
    }
    if (!other.free_files.empty()) {
      notice(
          fmt::format("the page store makes room: {} pages ({} bytes) of another model, which "
                      "no saved session needs, are removed",
                      other.free_files.size(), other.free_bytes));
    }
    bytes += RemoveFreeFiles(io, other);
  }
  return bytes;
}

Status RemoveUnneededIdentities(FileIo& io, const std::string& root) {
  const std::vector<IdentityFiles> identities = ListIdentities(io, root, std::nullopt);
  uint64_t needed_bytes = 0;
  for (const IdentityFiles& identity : identities) {
    needed_bytes += identity.needed_bytes;
  }
  if (needed_bytes > 0) {
    return FailedPrecondition(
        "{}/hash.key and its copy are damaged or missing, and without them the pages of saved "
        "sessions ({} bytes) cannot be found: restore one of them, or remove the sessions "
        "(thermocline kv rm)",
        root, needed_bytes);
  }
  for (const IdentityFiles& identity : identities) {
    if (RemoveFreeFiles(io, identity) > 0) {
      return Unavailable("cannot remove the pages in {}, which nobody can find any more",
                         identity.path);
    }
  }
  return {};
}

}  // namespace thermocline
