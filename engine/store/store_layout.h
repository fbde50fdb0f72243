#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/store/file_io.h"
#include "scheduler/page_pool.h"

// Which entries of a store's directory are the store's, by their names alone: docs/store_format.md.
// For the stores, and for whoever looks at a directory without being the store of one model.

namespace thermocline {

inline constexpr std::string_view kSessionsFolder = "sessions";
inline constexpr std::string_view kLockFile = "lock";
inline constexpr std::string_view kPageSuffix = ".page";
inline constexpr std::string_view kSessionSuffix = ".session";
inline constexpr size_t kFolderDigits = 2;  // a page's hash begins with them: 256 folders

// What HexDigits writes.
std::optional<ContentHash> ParseHexDigits(std::string_view digits);

bool IsIdentityFolder(const FileIo::Entry& entry);  // <32 digits>/
bool IsPageFolder(const FileIo::Entry& entry);      // <2 digits>/
bool IsPageFile(const FileIo::Entry& entry);        // <30 digits>.page
bool IsSessionFile(const FileIo::Entry& entry);     // <32 digits>.session
bool IsTemporaryFile(const FileIo::Entry& entry);   // one that was being written

// No part of a name that came from outside is ever part of a path.
std::string SessionFileName(std::string_view tenant, std::string_view id);

// The hash that a page folder's and a page file's names spell.
std::optional<ContentHash> HashOfPageFile(std::string_view folder, std::string_view file);

// Lists a directory. One that does not exist has no entries.
Result<std::vector<FileIo::Entry>> ListIfThere(FileIo& io, const std::string& path);
// Lists the folder `name` in `parent`. A link to a folder elsewhere counts as no folder.
Result<std::vector<FileIo::Entry>> ListFolder(FileIo& io, const std::string& parent,
                                              std::string_view name);

}  // namespace thermocline
