#include "engine/store/record.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr size_t kMagicBytes = 8;

ContentHash ChecksumOf(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {.low = hash.low64, .high = hash.high64};
}

bool HasMagic(const RecordKind& kind, std::span<const std::byte> bytes) {
  const std::span<const std::byte> magic = std::as_bytes(std::span(kind.magic));
  return bytes.size() >= kRecordStartBytes && std::equal(magic.begin(), magic.end(), bytes.begin());
}

Result<RecordReader> OpenContent(const RecordKind& kind, const ContentHash& identity,
                                 std::span<const std::byte> bytes) {
  RecordReader reader(bytes.subspan(kMagicBytes));
  const auto version = reader.Take<uint32_t>();
  if (version > kind.version) {
    return Unimplemented("a {} record of version {}, and this program knows {}", kind.name, version,
                         kind.version);
  }
  const auto zeros = reader.Take<uint32_t>();
  if (version != kind.version || zeros != 0) {
    return DataLoss("a {} record with a start that nobody writes", kind.name);
  }
  if (reader.TakeHash() != identity) {
    return FailedPrecondition("a {} record of another model, or of other page formats", kind.name);
  }
  return reader;
}

}  // namespace

RecordWriter::RecordWriter(const RecordKind& kind, const ContentHash& identity,
                           size_t content_bytes) {
  CHECK(kind.magic.size() == kMagicBytes);
  bytes_.reserve(kRecordStartBytes + content_bytes + kRecordChecksumBytes);
  AddBytes(std::as_bytes(std::span(kind.magic)));
  Add(kind.version);
  Add(uint32_t{0});
  AddHash(identity);
}

void RecordWriter::AddHash(const ContentHash& hash) {
  Add(hash.low);
  Add(hash.high);
}

void RecordWriter::AddBytes(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void RecordWriter::AddTokens(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) {
    Add(static_cast<uint32_t>(token));
  }
}

std::vector<std::byte> RecordWriter::Seal() && {
  AddHash(ChecksumOf(bytes_));
  return std::move(bytes_);
}

ContentHash RecordReader::TakeHash() {
  const auto low = Take<uint64_t>();
  return {.low = low, .high = Take<uint64_t>()};
}

std::span<const std::byte> RecordReader::TakeBytes(uint64_t num_bytes) {
  if (num_bytes > left_.size()) {
    good_ = false;
    left_ = {};
    return {};
  }
  const std::span<const std::byte> taken = left_.first(num_bytes);
  left_ = left_.subspan(num_bytes);
  return taken;
}

std::string RecordReader::TakeString(uint64_t num_bytes) {
  const std::span<const std::byte> bytes = TakeBytes(num_bytes);
  std::string text(bytes.size(), '\0');
  std::transform(bytes.begin(), bytes.end(), text.begin(),
                 [](std::byte byte) { return static_cast<char>(byte); });
  return text;
}

std::vector<TokenId> RecordReader::TakeTokens(uint64_t num_tokens) {
  if (num_tokens > left_.size() / sizeof(TokenId)) {
    good_ = false;
    left_ = {};
    return {};
  }
  std::vector<TokenId> tokens(num_tokens);
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(Take<uint32_t>());
  }
  return tokens;
}

Result<RecordReader> OpenRecord(const RecordKind& kind, const ContentHash& identity,
                                std::span<const std::byte> record) {
  if (record.size() < kRecordStartBytes + kRecordChecksumBytes || !HasMagic(kind, record)) {
    return DataLoss("{} bytes that are no {} record", record.size(), kind.name);
  }
  const size_t num_checked = record.size() - kRecordChecksumBytes;
  if (RecordReader(record.subspan(num_checked)).TakeHash() !=
      ChecksumOf(record.first(num_checked))) {
    return DataLoss("a {} record whose checksum is wrong", kind.name);
  }
  return OpenContent(kind, identity, record.first(num_checked));
}

Result<RecordReader> OpenRecordHead(const RecordKind& kind, const ContentHash& identity,
                                    std::span<const std::byte> head) {
  if (!HasMagic(kind, head)) {
    return DataLoss("{} bytes that start no {} record", head.size(), kind.name);
  }
  return OpenContent(kind, identity, head);
}

std::string HexDigits(const ContentHash& hash) {
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

}  // namespace thermocline
