#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "engine/loader/mapped_file.h"
#include "kernels/base/status.h"

namespace thermocline {

// The value types of GGUF metadata, with their numbers in the file.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// A metadata value where it lies in the file, its extent checked.
struct GgufValue {
  GgufType type = GgufType::kUint8;  // an array's element type
  bool is_array = false;
  uint64_t count = 1;                // elements
  std::span<const std::byte> bytes;  // all elements; strings with their lengths
};

// A GGUF v2 or v3 file (ggml's docs/gguf.md), little endian. Everything is checked when it is
// opened: no count, length, offset or shape is used before it was compared with the file's size.
class GgufFile final : public Checkpoint {
 public:
  // kNotFound when there is no such file; kInvalidArgument with one line that names the field.
  static Result<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // Reads a file's bytes from memory that the caller keeps alive. For tests and fuzzing.
  static Result<std::unique_ptr<GgufFile>> Parse(std::span<const std::byte> bytes);

  Result<int64_t> ReadInt(std::string_view key) const override;
  Result<double> ReadFloat(std::string_view key) const override;
  Result<bool> ReadBool(std::string_view key) const override;
  Result<std::string> ReadString(std::string_view key) const override;
  Result<std::vector<std::string>> ReadStrings(std::string_view key) const override;
  Result<std::vector<int64_t>> ReadInts(std::string_view key) const override;
  Result<std::vector<double>> ReadFloats(std::string_view key) const override;
  const CheckpointTensor* FindTensor(std::string_view name) const override;
  const std::vector<CheckpointTensor>& tensors() const override { return tensors_; }
  void Release(const CheckpointTensor& tensor) const override;
  std::span<const std::byte> bytes() const override { return bytes_; }

 private:
  friend class GgufParser;

  GgufFile() = default;
  Result<const GgufValue*> Find(std::string_view key, bool array) const;

  std::optional<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::unordered_map<std::string_view, GgufValue> metadata_;  // keys lie in the file
  std::vector<CheckpointTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_indices_;  // keys lie in the file
};

}  // namespace thermocline
