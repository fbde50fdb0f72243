#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// What the records of the stores share, little endian: magic (8 bytes), version (4), zeros (4), the
// identity that the content belongs to (16), the content, and XXH3 (128 bits) of all that. Later
// versions keep magic, version and checksum where they are.
struct RecordKind {
  std::string_view magic;  // 8 characters
  uint32_t version = 1;
  std::string_view name;  // in messages
};

inline constexpr size_t kRecordStartBytes = 32;
inline constexpr size_t kRecordChecksumBytes = 16;

class RecordWriter {
 public:
  // `content_bytes` will be added: memory for them is taken once.
  RecordWriter(const RecordKind& kind, const ContentHash& identity, size_t content_bytes);

  template <std::unsigned_integral T>
  void Add(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
      bytes_.push_back(static_cast<std::byte>(value >> (8 * i) & 0xff));
    }
  }
  void AddHash(const ContentHash& hash);
  void AddBytes(std::span<const std::byte> bytes);
  void AddTokens(std::span<const TokenId> tokens);

  // Ends the record.
  std::vector<std::byte> Seal() &&;

 private:
  std::vector<std::byte> bytes_;
};

// Reads the content of a record. Past the end it gives zeros and nothing, and is no longer good().
class RecordReader {
 public:
  explicit RecordReader(std::span<const std::byte> content) : left_(content) {}

  template <std::unsigned_integral T>
  T Take() {
    T value = 0;
    const std::span<const std::byte> bytes = TakeBytes(sizeof(T));
    for (size_t i = 0; i < bytes.size(); ++i) {
      value = static_cast<T>(value | static_cast<T>(static_cast<T>(bytes[i]) << (8 * i)));
    }
    return value;
  }
  ContentHash TakeHash();
  std::span<const std::byte> TakeBytes(uint64_t num_bytes);
  std::string TakeString(uint64_t num_bytes);
  std::vector<TokenId> TakeTokens(uint64_t num_tokens);

  bool good() const { return good_; }
  uint64_t num_left() const { return left_.size(); }

 private:
  std::span<const std::byte> left_;
  bool good_ = true;
};

// A reader of the whole record's content. kDataLoss: it is no record of this kind, or damaged.
// kUnimplemented: it is of a later version. kFailedPrecondition: it is of another identity.
Result<RecordReader> OpenRecord(const RecordKind& kind, const ContentHash& identity,
                                std::span<const std::byte> record);
// A reader of a record's first bytes, whose checksum cannot be tested. Errors as above.
Result<RecordReader> OpenRecordHead(const RecordKind& kind, const ContentHash& identity,
                                    std::span<const std::byte> head);

// 32 hex digits, the high half first.
std::string HexDigits(const ContentHash& hash);

}  // namespace thermocline
