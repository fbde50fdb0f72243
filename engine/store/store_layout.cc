#include "engine/store/store_layout.h"

#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <span>

#include "engine/store/record.h"

namespace thermocline {
namespace {

constexpr size_t kHashDigits = 32;

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsHexFile(const FileIo::Entry& entry, size_t num_digits, std::string_view suffix) {
  return !entry.is_directory && entry.name.size() == num_digits + suffix.size() &&
         entry.name.ends_with(suffix) && IsHex(std::string_view(entry.name).substr(0, num_digits));
}

bool IsHexFolder(const FileIo::Entry& entry, size_t num_digits) {
  return entry.is_directory && entry.name.size() == num_digits && IsHex(entry.name);
}

uint64_t ParseHalf(std::string_view digits) {
  uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

}  // namespace

std::optional<ContentHash> ParseHexDigits(std::string_view digits) {
  if (digits.size() != kHashDigits || !IsHex(digits)) {
    return std::nullopt;
  }
  return ContentHash{.low = ParseHalf(digits.substr(kHashDigits / 2)),
                     .high = ParseHalf(digits.substr(0, kHashDigits / 2))};
}

bool IsIdentityFolder(const FileIo::Entry& entry) { return IsHexFolder(entry, kHashDigits); }

bool IsPageFolder(const FileIo::Entry& entry) { return IsHexFolder(entry, kFolderDigits); }

bool IsPageFile(const FileIo::Entry& entry) {
  return IsHexFile(entry, kHashDigits - kFolderDigits, kPageSuffix);
}

bool IsSessionFile(const FileIo::Entry& entry) {
  return IsHexFile(entry, kHashDigits, kSessionSuffix);
}

bool IsTemporaryFile(const FileIo::Entry& entry) {
  return !entry.is_directory && entry.name.ends_with(kTemporarySuffix);
}

std::string SessionFileName(std::string_view tenant, std::string_view id) {
  std::vector<std::byte> named;
  for (size_t i = 0; i < sizeof(uint32_t); ++i) {
    named.push_back(static_cast<std::byte>(tenant.size() >> (8 * i) & 0xff));
  }
  for (const std::string_view part : {tenant, id}) {
    const std::span<const std::byte> bytes = std::as_bytes(std::span(part));
    named.insert(named.end(), bytes.begin(), bytes.end());
  }
  const XXH128_hash_t hash = XXH3_128bits(named.data(), named.size());
  return HexDigits({.low = hash.low64, .high = hash.high64}) + std::string(kSessionSuffix);
}

std::optional<ContentHash> HashOfPageFile(std::string_view folder, std::string_view file) {
  return ParseHexDigits(std::string(folder) +
                        std::string(file.substr(0, kHashDigits - kFolderDigits)));
}

Result<std::vector<FileIo::Entry>> ListIfThere(FileIo& io, const std::string& path) {
  Result<std::vector<FileIo::Entry>> entries = io.List(path);
  if (!entries.ok() && entries.status().code() == StatusCode::kNotFound) {
    return std::vector<FileIo::Entry>();
  }
  return entries;
}

Result<std::vector<FileIo::Entry>> ListFolder(FileIo& io, const std::string& parent,
                                              std::string_view name) {
  Result<std::vector<FileIo::Entry>> entries = ListIfThere(io, parent);
  if (!entries.ok()) {
    return entries;
  }
  const bool there = std::any_of(
      entries->begin(), entries->end(),
      [name](const FileIo::Entry& entry) { return entry.is_directory && entry.name == name; });
  return there ? ListIfThere(io, parent + "/" + std::string(name)) : std::vector<FileIo::Entry>();
}

}  // namespace thermocline
