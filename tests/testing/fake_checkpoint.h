#pragma once

#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/loader/checkpoint.h"

namespace thermocline {

// A checkpoint of values set one by one.
class FakeCheckpoint final : public Checkpoint {
 public:
  FakeCheckpoint& Set(const std::string& key, double value) {
    numbers_[key] = value;
    return *this;
  }
  FakeCheckpoint& Set(const std::string& key, std::string value) {
    strings_[key] = std::move(value);
    return *this;
  }
  // A float32 vector, or with `cols` a matrix of rows of so many.
  FakeCheckpoint& SetTensor(const std::string& name, std::vector<float> values, int64_t cols = 0) {
    const std::vector<float>& kept =
        *values_.emplace_back(std::make_shared<const std::vector<float>>(std::move(values)));
    tensors_.push_back({.name = name,
                        .type = WeightType::kF32,
                        .dims = cols == 0 ? std::vector<int64_t>{std::ssize(kept)}
                                          : std::vector<int64_t>{cols, std::ssize(kept) / cols},
                        .data = reinterpret_cast<const std::byte*>(kept.data()),
                        .num_bytes = kept.size() * sizeof(float)});
    return *this;
  }

  Result<int64_t> ReadInt(std::string_view key) const override {
    return Find<int64_t>(numbers_, key);
  }
  Result<double> ReadFloat(std::string_view key) const override {
    return Find<double>(numbers_, key);
  }
  Result<std::string> ReadString(std::string_view key) const override {
    return Find<std::string>(strings_, key);
  }
  Result<bool> ReadBool(std::string_view key) const override {
    return NotFound("{}: missing", key);
  }
  Result<std::vector<std::string>> ReadStrings(std::string_view key) const override {
    return NotFound("{}: missing", key);
  }
  Result<std::vector<int64_t>> ReadInts(std::string_view key) const override {
    return NotFound("{}: missing", key);
  }
  Result<std::vector<double>> ReadFloats(std::string_view key) const override {
    return NotFound("{}: missing", key);
  }
  const CheckpointTensor* FindTensor(std::string_view name) const override {
    for (const CheckpointTensor& tensor : tensors_) {
      if (tensor.name == name) {
        return &tensor;
      }
    }
    return nullptr;
  }
  const std::vector<CheckpointTensor>& tensors() const override { return tensors_; }
  std::span<const std::byte> bytes() const override { return {}; }
  void Release(const CheckpointTensor& /*tensor*/) const override {}

 private:
  template <typename T, typename Map>
  static Result<T> Find(const Map& values, std::string_view key) {
    const auto it = values.find(key);
    if (it == values.end()) {
      return NotFound("{}: missing", key);
    }
    return static_cast<T>(it->second);
  }

  std::map<std::string, double, std::less<>> numbers_;
  std::map<std::string, std::string, std::less<>> strings_;
  // Shared, so that a copy's tensors point to memory that lives.
  std::vector<std::shared_ptr<const std::vector<float>>> values_;
  std::vector<CheckpointTensor> tensors_;
};

}  // namespace thermocline
