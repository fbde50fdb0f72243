#include "engine/model/metadata.h"

#include <utility>

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

Status ReadOptionalFloat(const Checkpoint& checkpoint, const std::string& key, double& out) {
  return Take(checkpoint.ReadFloat(key), out);
}

Status ReadOptionalString(const Checkpoint& checkpoint, const std::string& key, std::string& out) {
  return Take(checkpoint.ReadString(key), out);
}

}  // namespace thermocline
