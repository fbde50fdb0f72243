#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/api_error.h"
#include "server/http/json.h"

namespace thermocline {

// Reads the fields of one JSON object, each checked for its type and its range before it is used.
// The first thing that is wrong is kept in the shared `error`, with the field's path; after that
// all reads return their fallback, so that a parser reads everything and looks at the error once.
// A field that is absent or null has its fallback.
class FieldReader {
 public:
  // Borrows all three. `path` is the object's own, empty for the body itself.
  FieldReader(const Json& object, std::string path, std::optional<ApiError>& error);

  // Null when the field is absent or null.
  const Json* Find(std::string_view name);
  bool Has(std::string_view name) { return Find(name) != nullptr; }
  // The fields that have a value and that nothing has asked for until now, by any function here.
  // They borrow from the object.
  std::vector<std::string_view> Unread() const;

  bool Bool(std::string_view name, bool fallback);
  // Whole numbers only; 3.0 is one, as for JavaScript clients.
  int64_t Int(std::string_view name, int64_t fallback, int64_t min, int64_t max);
  double Number(std::string_view name, double fallback, double min, double max);
  std::string String(std::string_view name, std::string fallback, size_t max_bytes);
  // Absent, null or an array (object); null when absent.
  const Json* Array(std::string_view name, size_t max_items);
  const Json* Object(std::string_view name);

  // 400 at this field. `message` says what is wrong with it.
  void Fail(std::string_view name, std::string message);
  bool failed() const { return error_.has_value(); }
  std::string PathOf(std::string_view name) const;

 private:
  const Json& object_;
  std::string path_;
  std::optional<ApiError>& error_;
  std::vector<bool> read_;  // [field], in the object's order
};

// A JSON number as a whole number in [min, max]; nothing if it is not one.
std::optional<int64_t> ToInt(const Json& value, int64_t min, int64_t max);
// For messages: `string`, `array`...
std::string_view KindOf(const Json& value);

}  // namespace thermocline
