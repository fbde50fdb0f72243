#include "server/api/field_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace thermocline {

std::optional<int64_t> ToInt(const Json& value, int64_t min, int64_t max) {
  int64_t number = 0;
  if (value.is_number_unsigned()) {
    const auto wide = value.get<uint64_t>();
    if (wide > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return std::nullopt;
    }
    number = static_cast<int64_t>(wide);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const auto real = value.get<double>();
    // Within 2^53 every whole double is exactly one integer; the negation also refuses NaN.
    if (!(std::abs(real) <= 9007199254740992.0) || real != std::trunc(real)) {
      return std::nullopt;
    }
    number = static_cast<int64_t>(real);
  } else {
    return std::nullopt;
  }
  if (number < min || number > max) {
    return std::nullopt;
  }
  return number;
}

std::string_view KindOf(const Json& value) { return value.type_name(); }

FieldReader::FieldReader(const Json& object, std::string path, std::optional<ApiError>& error)
    : object_(object), path_(std::move(path)), error_(error), read_(object.size()) {}

const Json* FieldReader::Find(std::string_view name) {
  size_t i = 0;
  for (const auto& [key, value] : object_.get_ref<const Json::object_t&>()) {
    if (key == name) {
      read_[i] = true;
      return value.is_null() ? nullptr : &value;
    }
    ++i;
  }
  return nullptr;
}

std::vector<std::string_view> FieldReader::Unread() const {
  std::vector<std::string_view> names;
  size_t i = 0;
  for (const auto& [key, value] : object_.get_ref<const Json::object_t&>()) {
    if (!read_[i++] && !value.is_null()) {
      names.emplace_back(key);
    }
  }
  return names;
}

std::string FieldReader::PathOf(std::string_view name) const {
  return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

void FieldReader::Fail(std::string_view name, std::string message) {
  if (!error_) {
    const std::string param = PathOf(name);
    error_ = InvalidField(param, fmt::format("{}: {}", param, message));
  }
}

bool FieldReader::Bool(std::string_view name, bool fallback) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_boolean()) {
    Fail(name, fmt::format("must be true or false, not a {}", KindOf(*value)));
    return fallback;
  }
  return value->get<bool>();
}

int64_t FieldReader::Int(std::string_view name, int64_t fallback, int64_t min, int64_t max) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return fallback;
  }
  const std::optional<int64_t> number = ToInt(*value, min, max);
  if (!number) {
    Fail(name, fmt::format("must be a whole number from {} to {}", min, max));
    return fallback;
  }
  return *number;
}

double FieldReader::Number(std::string_view name, double fallback, double min, double max) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return fallback;
  }
  const double number =
      value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!(number >= min && number <= max)) {  // the negation also refuses NaN
    Fail(name, fmt::format("must be a number from {} to {}", min, max));
    return fallback;
  }
  return number;
}

std::string FieldReader::String(std::string_view name, std::string fallback, size_t max_bytes) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_string()) {
    Fail(name, fmt::format("must be a string, not a {}", KindOf(*value)));
    return fallback;
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    Fail(name, fmt::format("is longer than {} bytes", max_bytes));
    return fallback;
  }
  return text;
}

const Json* FieldReader::Array(std::string_view name, size_t max_items) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return nullptr;
  }
  if (!value->is_array()) {
    Fail(name, fmt::format("must be an array, not a {}", KindOf(*value)));
    return nullptr;
  }
  if (value->size() > max_items) {
    Fail(name, fmt::format("has {} items, more than {}", value->size(), max_items));
    return nullptr;
  }
  return value;
}

const Json* FieldReader::Object(std::string_view name) {
  const Json* value = Find(name);
  if (value != nullptr && !value->is_object()) {
    Fail(name, fmt::format("must be an object, not a {}", KindOf(*value)));
    return nullptr;
  }
  return value;
}

}  // namespace thermocline
