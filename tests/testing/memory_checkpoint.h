#pragma once

#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "engine/loader/checkpoint.h"

namespace thermocline {

// A checkpoint of metadata alone, held in memory and changed at will.
class MemoryCheckpoint : public Checkpoint {
 public:
  using Value = std::variant<int64_t, double, bool, std::string, std::vector<std::string>,
                             std::vector<int64_t>, std::vector<double>>;

  void Set(std::string key, Value value) { values_[std::move(key)] = std::move(value); }
  void Remove(const std::string& key) { values_.erase(key); }
  // What is stored under `key`, to be changed in place; a T must be there.
  template <typename T>
  T& Get(const std::string& key) {
    return std::get<T>(values_.at(key));
  }

  Result<int64_t> ReadInt(std::string_view key) const override { return Read<int64_t>(key); }
  Result<double> ReadFloat(std::string_view key) const override { return Read<double>(key); }
  Result<bool> ReadBool(std::string_view key) const override { return Read<bool>(key); }
  Result<std::string> ReadString(std::string_view key) const override {
    return Read<std::string>(key);
  }
  Result<std::vector<std::string>> ReadStrings(std::string_view key) const override {
    return Read<std::vector<std::string>>(key);
  }
  Result<std::vector<int64_t>> ReadInts(std::string_view key) const override {
    return Read<std::vector<int64_t>>(key);
  }
  Result<std::vector<double>> ReadFloats(std::string_view key) const override {
    return Read<std::vector<double>>(key);
  }
  const CheckpointTensor* FindTensor(std::string_view) const override { return nullptr; }
  const std::vector<CheckpointTensor>& tensors() const override { return tensors_; }
  std::span<const std::byte> bytes() const override { return {}; }
  void Release(const CheckpointTensor& /*tensor*/) const override {}

 private:
  template <typename T>
  Result<T> Read(std::string_view key) const {
    const auto found = values_.find(std::string(key));
    if (found == values_.end()) {
      return NotFound("{}: absent", key);
    }
    const T* value = std::get_if<T>(&found->second);
    if (value == nullptr) {
      return InvalidArgument("{}: of another type", key);
    }
    return *value;
  }

  std::map<std::string, Value> values_;
  std::vector<CheckpointTensor> tensors_;
};

}  // namespace thermocline
