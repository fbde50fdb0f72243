#include "server/http/json.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <unordered_set>
#include <utility>
#include <vector>

namespace thermocline {
namespace {

// The exception's own text quotes the input, which may be anything; only its reason is kept.
std::string Reason(std::string_view what) {
  const size_t last_read = what.find("; last read");
  what = what.substr(0, last_read);
  const size_t dash = what.find(" - ");
  if (dash != std::string_view::npos) {
    what = what.substr(dash + 3);
  } else if (const size_t bracket = what.find("] "); bracket != std::string_view::npos) {
    what = what.substr(bracket + 2);
  }
  std::string reason;
  for (const char c : what) {
    reason += c >= ' ' && c <= '~' ? c : '?';
  }
  return reason;
}

// Builds the value while holding the limits. Ordered objects look keys up by scanning, so the keys
// of each open object are kept in a set beside it.
class JsonBuilder final : public nlohmann::json_sax<Json> {
 public:
  explicit JsonBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) {
      return Fail(fmt::format("the number {} is out of range", text.substr(0, 32)));
    }
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return Fail("binary values are not JSON"); }

  bool start_object(size_t /*size*/) override { return Open(Json::object()); }
  bool end_object() override { return CloseContainer(); }
  bool start_array(size_t /*size*/) override { return Open(Json::array()); }
  bool end_array() override { return CloseContainer(); }

  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value).second) {
      return Fail(fmt::format("the key \"{}\" occurs twice in one object", value.substr(0, 64)));
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) override {
    return Fail(fmt::format("at byte {}: {}", position, Reason(error.what())));
  }

  Json TakeRoot() { return std::move(root_); }
  const std::string& error() const { return error_; }

 private:
  struct OpenContainer {
    Json value;
    std::string key;  // its own, in its parent
    std::unordered_set<std::string> keys;
  };

  bool Fail(std::string message) {
    if (error_.empty()) {
      error_ = std::move(message);
    }
    return false;
  }

  bool Count() {
    return ++num_values_ <= limits_.max_values ||
           Fail(fmt::format("more than {} values", limits_.max_values));
  }

  bool Add(Json value) {
    if (!Count()) {
      return false;
    }
    Place(std::move(value), key_);
    return true;
  }

  void Place(Json value, std::string& key) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Json& parent = open_.back().value; parent.is_array()) {
      parent.push_back(std::move(value));
    } else {
      // A push to the underlying vector: operator[] would scan all earlier keys.
      parent.get_ref<Json::object_t&>().emplace_back(std::move(key), std::move(value));
    }
  }

  bool Open(Json container) {
    if (!Count()) {
      return false;
    }
    if (open_.size() >= static_cast<size_t>(limits_.max_depth)) {
      return Fail(fmt::format("nested deeper than {} levels", limits_.max_depth));
    }
    open_.push_back({std::move(container), std::move(key_), {}});
    key_.clear();
    return true;
  }

  bool CloseContainer() {
    OpenContainer done = std::move(open_.back());
    open_.pop_back();
    Place(std::move(done.value), done.key);
    return true;
  }

  const JsonLimits limits_;
  std::vector<OpenContainer> open_;
  Json root_;
  std::string key_;  // names the value that comes next in an object
  size_t num_values_ = 0;
  std::string error_;
};

}  // namespace

Result<Json> ParseJson(std::string_view text, const JsonLimits& limits) {
  // To the library a NUL is the end of the text, whatever follows. JSON has none, not even in
  // strings.
  if (const size_t at = text.find('\0'); at != std::string_view::npos) {
    return InvalidArgument("invalid JSON: at byte {}: a NUL", at + 1);
  }
  JsonBuilder builder(limits);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const std::exception& error) {
    return InvalidArgument("invalid JSON: {}", Reason(error.what()));
  }
  if (!parsed) {
    return InvalidArgument("invalid JSON: {}", builder.error());
  }
  return builder.TakeRoot();
}

std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace thermocline
