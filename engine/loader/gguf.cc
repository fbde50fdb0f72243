#include "engine/loader/gguf.h"

#include <cstring>
#include <limits>
#include <utility>

#include "engine/loader/gguf_parser.h"

namespace thermocline {
namespace {

template <typename T>
T Load(const std::byte* src) {
  T value{};
  std::memcpy(&value, src, sizeof(T));
  return value;
}

Status WrongType(std::string_view key, std::string_view wanted) {
  return InvalidArgument("{}: is not {}", key, wanted);
}

// Element `index` of an array of integers, or nothing.
std::optional<int64_t> IntAt(const GgufValue& value, size_t index) {
  const std::byte* data = value.bytes.data();
  switch (value.type) {
    case GgufType::kUint8:
      return Load<uint8_t>(data + index);
    case GgufType::kInt8:
      return Load<int8_t>(data + index);
    case GgufType::kUint16:
      return Load<uint16_t>(data + 2 * index);
    case GgufType::kInt16:
      return Load<int16_t>(data + 2 * index);
    case GgufType::kUint32:
      return Load<uint32_t>(data + 4 * index);
    case GgufType::kInt32:
      return Load<int32_t>(data + 4 * index);
    case GgufType::kInt64:
      return Load<int64_t>(data + 8 * index);
    case GgufType::kUint64: {
      const auto number = Load<uint64_t>(data + 8 * index);
      if (number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return static_cast<int64_t>(number);
      }
      return std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> FloatAt(const GgufValue& value, size_t index) {
  const std::byte* data = value.bytes.data();
  if (value.type == GgufType::kFloat32) {
    return Load<float>(data + 4 * index);
  }
  if (value.type == GgufType::kFloat64) {
    return Load<double>(data + 8 * index);
  }
  return std::nullopt;
}

std::string_view TextAt(const std::byte* data) {
  return {reinterpret_cast<const char*>(data) + 8, static_cast<size_t>(Load<uint64_t>(data))};
}

}  // namespace

Result<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  Result<MappedFile> mapped = MappedFile::Open(path);
  if (!mapped.ok()) {
    return mapped.status();
  }
  Result<std::unique_ptr<GgufFile>> file = Parse(mapped->bytes());
  if (!file.ok()) {
    return Status(file.status().code(), fmt::format("{}: {}", path, file.status().message()));
  }
  (*file)->file_ = std::move(*mapped);
  return file;
}

Result<std::unique_ptr<GgufFile>> GgufFile::Parse(std::span<const std::byte> bytes) {
  Result<std::unique_ptr<GgufFile>> file = GgufParser(bytes).Parse();
  if (file.ok()) {
    (*file)->bytes_ = bytes;
  }
  return file;
}

Result<const GgufValue*> GgufFile::Find(std::string_view key, bool array) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) {
    return NotFound("{}: missing from the metadata", key);
  }
  if (found->second.is_array != array) {
    return WrongType(key, array ? "an array" : "a single value");
  }
  return &found->second;
}

Result<int64_t> GgufFile::ReadInt(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, false);
  if (!value.ok()) {
    return value.status();
  }
  const std::optional<int64_t> number = IntAt(**value, 0);
  return number ? Result<int64_t>(*number) : WrongType(key, "an integer in range");
}

Result<double> GgufFile::ReadFloat(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, false);
  if (!value.ok()) {
    return value.status();
  }
  const std::optional<double> number = FloatAt(**value, 0);
  return number ? Result<double>(*number) : WrongType(key, "a floating-point number");
}

Result<bool> GgufFile::ReadBool(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, false);
  if (!value.ok()) {
    return value.status();
  }
  if ((*value)->type != GgufType::kBool) {
    return WrongType(key, "a boolean");
  }
  return (*value)->bytes[0] != std::byte{0};
}

Result<std::string> GgufFile::ReadString(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, false);
  if (!value.ok()) {
    return value.status();
  }
  if ((*value)->type != GgufType::kString) {
    return WrongType(key, "a string");
  }
  return std::string(TextAt((*value)->bytes.data()));
}

Result<std::vector<std::string>> GgufFile::ReadStrings(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, true);
  if (!value.ok()) {
    return value.status();
  }
  if ((*value)->type != GgufType::kString) {
    return WrongType(key, "an array of strings");
  }
  std::vector<std::string> texts;
  texts.reserve((*value)->count);
  const std::byte* data = (*value)->bytes.data();
  for (uint64_t i = 0; i < (*value)->count; ++i) {
    texts.emplace_back(TextAt(data));
    data += 8 + texts.back().size();
  }
  return texts;
}

Result<std::vector<int64_t>> GgufFile::ReadInts(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, true);
  if (!value.ok()) {
    return value.status();
  }
  std::vector<int64_t> numbers;
  numbers.reserve((*value)->count);
  for (size_t i = 0; i < (*value)->count; ++i) {
    const std::optional<int64_t> number = IntAt(**value, i);
    if (!number) {
      return WrongType(key, "an array of integers in range");
    }
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::vector<double>> GgufFile::ReadFloats(std::string_view key) const {
  const Result<const GgufValue*> value = Find(key, true);
  if (!value.ok()) {
    return value.status();
  }
  std::vector<double> numbers;
  numbers.reserve((*value)->count);
  for (size_t i = 0; i < (*value)->count; ++i) {
    const std::optional<double> number = FloatAt(**value, i);
    if (!number) {
      return WrongType(key, "an array of floating-point numbers");
    }
    numbers.push_back(*number);
  }
  return numbers;
}

const CheckpointTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = tensor_indices_.find(name);
  return found == tensor_indices_.end() ? nullptr : &tensors_[found->second];
}

void GgufFile::Release(const CheckpointTensor& tensor) const {
  if (file_.has_value()) {
    file_->Release({tensor.data, tensor.num_bytes});
  }
}

}  // namespace thermocline
