#include "engine/loader/gguf_parser.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/loader/file_kind.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

constexpr size_t kMaxKeyBytes = 65535;     // the format's own limit
constexpr size_t kMaxNameBytes = 255;      // ggml allows 63
constexpr uint64_t kMaxMetadata = 65536;   // real files have tens
constexpr uint64_t kMaxTensors = 1 << 20;  // real files have hundreds to thousands
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;

// The size of one element. Nothing for strings, for arrays and for numbers that are no type.
std::optional<uint64_t> ElementBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return std::nullopt;
}

bool IsPlainName(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace

Result<std::unique_ptr<GgufFile>> GgufParser::Parse() {
  file_ = std::unique_ptr<GgufFile>(new GgufFile);  // NOLINT: the constructor is private
  RETURN_IF_ERROR(ReadHeader());
  RETURN_IF_ERROR(ReadMetadata());
  RETURN_IF_ERROR(ReadAlignment());
  file_->tensors_.reserve(num_tensors_);
  for (uint64_t i = 0; i < num_tensors_; ++i) {
    RETURN_IF_ERROR(ReadTensorInfo(i));
  }
  RETURN_IF_ERROR(PlaceTensors());
  RETURN_IF_ERROR(CheckOverlaps());
  return std::move(file_);
}

Status GgufParser::ReadHeader() {
  std::array<char, 4> magic{};
  if (left() < magic.size()) {
    return NotGguf(bytes_);
  }
  RETURN_IF_ERROR(ReadNumber("magic", magic));
  if (std::string_view(magic.data(), magic.size()) != "GGUF") {
    return NotGguf(bytes_);
  }
  uint32_t version = 0;
  RETURN_IF_ERROR(ReadNumber("version", version));
  if (version != 2 && version != 3) {
    return UnreadableVersion(version);
  }
  RETURN_IF_ERROR(ReadNumber("tensor_count", num_tensors_));
  RETURN_IF_ERROR(ReadNumber("metadata_kv_count", num_metadata_));
  // A tensor's description takes at least 24 bytes, a metadata pair 13.
  if (num_tensors_ > kMaxTensors || num_tensors_ > left() / 24) {
    return InvalidArgument("tensor_count: {} is more than the file can hold", num_tensors_);
  }
  if (num_metadata_ > kMaxMetadata || num_metadata_ > left() / 13) {
    return InvalidArgument("metadata_kv_count: {} is more than the file can hold", num_metadata_);
  }
  return {};
}

Status GgufParser::ReadMetadata() {
  for (uint64_t i = 0; i < num_metadata_; ++i) {
    std::string_view key;
    RETURN_IF_ERROR(ReadText(fmt::format("key of metadata pair {}", i), kMaxKeyBytes, key));
    if (!IsPlainName(key)) {
      return InvalidArgument("key of metadata pair {}: empty or not plain ASCII", i);
    }
    GgufValue value;
    RETURN_IF_ERROR(ReadValue(key, value));
    if (!file_->metadata_.emplace(key, value).second) {
      return InvalidArgument("{}: the key appears twice", Printable(key));
    }
  }
  return {};
}

Status GgufParser::ReadValue(std::string_view key, GgufValue& value) {
  uint32_t type = 0;
  RETURN_IF_ERROR(ReadNumber(Printable(key), type));
  value.type = static_cast<GgufType>(type);
  if (value.type == GgufType::kArray) {
    return ReadArray(key, value);
  }
  const size_t begin = position_;
  if (value.type == GgufType::kString) {
    std::string_view text;
    RETURN_IF_ERROR(ReadText(Printable(key), bytes_.size(), text));
  } else {
    const std::optional<uint64_t> element_bytes = ElementBytes(value.type);
    if (!element_bytes) {
      return InvalidArgument("{}: {} is not a value type", Printable(key), type);
    }
    RETURN_IF_ERROR(Skip(Printable(key), *element_bytes));
    if (value.type == GgufType::kBool && std::to_integer<uint8_t>(bytes_[begin]) > 1) {
      return InvalidArgument("{}: a boolean must be 0 or 1", Printable(key));
    }
  }
  value.bytes = bytes_.subspan(begin, position_ - begin);
  return {};
}

Status GgufParser::ReadArray(std::string_view key, GgufValue& value) {
  uint32_t type = 0;
  RETURN_IF_ERROR(ReadNumber(Printable(key), type));
  RETURN_IF_ERROR(ReadNumber(Printable(key), value.count));
  value.type = static_cast<GgufType>(type);
  value.is_array = true;
  const size_t begin = position_;
  if (value.type == GgufType::kString) {
    if (value.count > left() / 8) {
      return InvalidArgument("{}: {} strings are more than the file can hold", Printable(key),
                             value.count);
    }
    for (uint64_t i = 0; i < value.count; ++i) {
      std::string_view text;
      RETURN_IF_ERROR(ReadText(Printable(key), bytes_.size(), text));
    }
  } else {
    const std::optional<uint64_t> element_bytes = ElementBytes(value.type);
    if (!element_bytes) {
      return InvalidArgument("{}: {} is not a type of array elements", Printable(key), type);
    }
    if (value.count > left() / *element_bytes) {
      return InvalidArgument("{}: {} elements are more than the file can hold", Printable(key),
                             value.count);
    }
    RETURN_IF_ERROR(Skip(Printable(key), value.count * *element_bytes));
  }
  value.bytes = bytes_.subspan(begin, position_ - begin);
  return {};
}

Status GgufParser::ReadAlignment() {
  if (!file_->metadata_.contains("general.alignment")) {
    return {};
  }
  const Result<int64_t> alignment = file_->ReadInt("general.alignment");
  if (!alignment.ok()) {
    return alignment.status();
  }
  const auto value = static_cast<uint64_t>(*alignment);
  if (*alignment <= 0 || !std::has_single_bit(value) || value > kMaxAlignment) {
    return InvalidArgument("general.alignment: {} is not a power of two up to {}", *alignment,
                           kMaxAlignment);
  }
  alignment_ = value;
  return {};
}

Status GgufParser::ReadTensorInfo(uint64_t index) {
  std::string_view name;
  RETURN_IF_ERROR(ReadText(fmt::format("name of tensor {}", index), kMaxNameBytes, name));
  if (!IsPlainName(name)) {
    return InvalidArgument("name of tensor {}: empty or not plain ASCII", index);
  }
  if (!file_->tensor_indices_.emplace(name, index).second) {
    return InvalidArgument("tensor {}: the name appears twice", name);
  }
  CheckpointTensor tensor;
  tensor.name = name;
  const std::string what = fmt::format("tensor {}", name);
  uint32_t num_dims = 0;
  RETURN_IF_ERROR(ReadNumber(what, num_dims));
  if (num_dims == 0 || num_dims > kMaxDims) {
    return InvalidArgument("{}: {} dimensions, must be 1 to {}", what, num_dims, kMaxDims);
  }
  uint64_t num_elements = 1;
  for (uint32_t i = 0; i < num_dims; ++i) {
    uint64_t dim = 0;
    RETURN_IF_ERROR(ReadNumber(what, dim));
    if (dim == 0 || __builtin_mul_overflow(num_elements, dim, &num_elements) ||
        num_elements > uint64_t{1} << 48) {
      return InvalidArgument("{}: dimension {} is {}, zero or too large", what, i, dim);
    }
    tensor.dims.push_back(static_cast<int64_t>(dim));
  }
  uint32_t type = 0;
  RETURN_IF_ERROR(ReadNumber(what, type));
  tensor.type = static_cast<WeightType>(type);
  const std::optional<WeightTypeInfo> info = GetWeightTypeInfo(tensor.type);
  if (!info) {
    return InvalidArgument("{}: type {} is not supported (there are {})", what,
                           TensorTypeName(type), ReadableTensorTypes());
  }
  if (tensor.dims[0] % info->block_elements != 0) {
    return InvalidArgument("{}: rows of {} elements are not whole {} blocks of {}", what,
                           tensor.dims[0], info->name, info->block_elements);
  }
  // At most 2^48 elements of 4 bytes: no overflow.
  tensor.num_bytes = num_elements / static_cast<uint64_t>(info->block_elements) *
                     static_cast<uint64_t>(info->block_bytes);
  uint64_t offset = 0;
  RETURN_IF_ERROR(ReadNumber(what, offset));
  offsets_.push_back(offset);
  file_->tensors_.push_back(std::move(tensor));
  return {};
}

Status GgufParser::PlaceTensors() {
  if (file_->tensors_.empty()) {
    return {};
  }
  const uint64_t data_begin = (position_ + alignment_ - 1) / alignment_ * alignment_;
  if (data_begin > bytes_.size()) {
    return InvalidArgument("tensor data: the file ends before it");
  }
  const uint64_t data_bytes = bytes_.size() - data_begin;
  for (size_t i = 0; i < offsets_.size(); ++i) {
    CheckpointTensor& tensor = file_->tensors_[i];
    if (offsets_[i] % alignment_ != 0) {
      return InvalidArgument("tensor {}: offset {} is not a multiple of the alignment {}",
                             tensor.name, offsets_[i], alignment_);
    }
    if (offsets_[i] > data_bytes || tensor.num_bytes > data_bytes - offsets_[i]) {
      return InvalidArgument(
          "tensor {}: {} bytes at offset {} pass the end of the file ({} bytes of data), which may "
          "have been cut short",
          tensor.name, tensor.num_bytes, offsets_[i], data_bytes);
    }
    tensor.data = bytes_.data() + data_begin + offsets_[i];
  }
  return {};
}

Status GgufParser::CheckOverlaps() const {
  const std::vector<CheckpointTensor>& tensors = file_->tensors_;
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return offsets_[a] < offsets_[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    const size_t before = order[i - 1];
    if (offsets_[before] + tensors[before].num_bytes > offsets_[order[i]]) {
      return InvalidArgument("tensor {}: overlaps tensor {}", tensors[order[i]].name,
                             tensors[before].name);
    }
  }
  return {};
}

template <typename T>
Status GgufParser::ReadNumber(std::string_view what, T& value) {
  const size_t begin = position_;
  RETURN_IF_ERROR(Skip(what, sizeof(T)));
  std::memcpy(&value, bytes_.data() + begin, sizeof(T));
  return {};
}

Status GgufParser::ReadText(std::string_view what, size_t max_bytes, std::string_view& text) {
  uint64_t length = 0;
  RETURN_IF_ERROR(ReadNumber(what, length));
  if (length > max_bytes) {
    return InvalidArgument("{}: a string of {} bytes is too long", what, length);
  }
  const size_t begin = position_;
  RETURN_IF_ERROR(Skip(what, length));
  text = {reinterpret_cast<const char*>(bytes_.data()) + begin, static_cast<size_t>(length)};
  return {};
}

Status GgufParser::Skip(std::string_view what, uint64_t num_bytes) {
  if (num_bytes > left()) {
    return InvalidArgument("{}: the file ends inside it", what);
  }
  position_ += static_cast<size_t>(num_bytes);
  return {};
}

}  // namespace thermocline
