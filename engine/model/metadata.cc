#include "engine/model/metadata.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace thermocline {
namespace {

Status CheckRange(const std::string& key, int64_t value, int64_t min, int64_t max) {
  if (value < min || value > max) {
    return InvalidArgument("{}: {} is not in {}..{}", key, value, min, max);
  }
  return {};
}

// The value if there is one; nothing is not an error, a wrong type is.
template <typename T>
Status Take(Result<T> read, T& out) {
  if (read.ok()) {
    out = *std::move(read);
    return {};
  }
  return read.status().code() == StatusCode::kNotFound ? Status() : read.status();
}

}  // namespace

bool HasKey(const Checkpoint& checkpoint, const std::string& key) {
  return checkpoint.ReadInt(key).status().code() != StatusCode::kNotFound;
}

Status ReadRequiredInt(const Checkpoint& checkpoint, const std::string& key, int64_t min,
                       int64_t max, int& out) {
  const Result<int64_t> value = checkpoint.ReadInt(key);
  if (!value.ok()) {
    // Absent or of another type: the file is bad either way.
    return InvalidArgument("{}", value.status().message());
  }
  RETURN_IF_ERROR(CheckRange(key, *value, min, max));
  out = static_cast<int>(*value);
  return {};
}

Status ReadOptionalInt(const Checkpoint& checkpoint, const std::string& key, int64_t min,
                       int64_t max, int64_t& out) {
  int64_t value = out;
  RETURN_IF_ERROR(Take(checkpoint.ReadInt(key), value));
  if (value != out) {
    RETURN_IF_ERROR(CheckRange(key, value, min, max));
  }
  out = value;
  return {};
}

Status ReadUniformInt(const Checkpoint& checkpoint, const std::string& key, int num_layers,
                      int64_t min, int64_t max, int& out) {
  const Result<std::vector<int64_t>> values = checkpoint.ReadInts(key);
  if (!values.ok()) {
    return ReadRequiredInt(checkpoint, key, min, max, out);
  }
  if (values->size() != static_cast<size_t>(num_layers)) {
    return InvalidArgument("{}: {} numbers for {} layers", key, values->size(), num_layers);
  }
  const auto other = std::adjacent_find(values->begin(), values->end(), std::not_equal_to<>());
  if (other != values->end()) {
    return Unimplemented("{}: layers differ ({} and {}), which is not supported", key, other[0],
                         other[1]);
  }
  RETURN_IF_ERROR(CheckRange(key, values->front(), min, max));
  out = static_cast<int>(values->front());
  return {};
}

Status ReadOptionalFloat(const Checkpoint& checkpoint, const std::string& key, double& out) {
  return Take(checkpoint.ReadFloat(key), out);
}

Status ReadOptionalString(const Checkpoint& checkpoint, const std::string& key, std::string& out) {
  return Take(checkpoint.ReadString(key), out);
}

}  // namespace thermocline
