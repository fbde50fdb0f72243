#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "engine/loader/gguf.h"

namespace thermocline {

// Walks the bytes of a GGUF file once and fills a GgufFile; each step checks before it advances.
class GgufParser {
 public:
  explicit GgufParser(std::span<const std::byte> bytes) : bytes_(bytes) {}

  Result<std::unique_ptr<GgufFile>> Parse();

 private:
  Status ReadHeader();
  Status ReadMetadata();
  Status ReadValue(std::string_view key, GgufValue& value);
  Status ReadArray(std::string_view key, GgufValue& value);
  Status ReadTensorInfo(uint64_t index);
  Status ReadAlignment();
  Status PlaceTensors();
  Status CheckOverlaps() const;

  template <typename T>
  Status ReadNumber(std::string_view what, T& value);
  Status ReadText(std::string_view what, size_t max_bytes, std::string_view& text);
  Status Skip(std::string_view what, uint64_t num_bytes);
  uint64_t left() const { return bytes_.size() - position_; }

  std::span<const std::byte> bytes_;
  size_t position_ = 0;
  uint64_t num_tensors_ = 0;
  uint64_t num_metadata_ = 0;
  uint64_t alignment_ = 32;
  std::vector<uint64_t> offsets_;  // each tensor's, from the start of the data section
  std::unique_ptr<GgufFile> file_;
};

}  // namespace thermocline
