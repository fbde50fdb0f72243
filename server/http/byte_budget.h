#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace thermocline {

// Bytes that are held for clients, against one limit. Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(uint64_t limit) : limit_(limit) {}
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  // False: the limit would be passed, nothing is taken.
  bool Take(uint64_t bytes) {
    if (taken_.fetch_add(bytes) + bytes > limit_) {
      taken_ -= bytes;
      return false;
    }
    return true;
  }
  void Give(uint64_t bytes) { taken_ -= bytes; }
  uint64_t taken() const { return taken_; }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> taken_{0};
};

// A share of a budget, given back at its end: it lives as long as the bytes that it stands for. The
// budget outlives it.
class ByteHold {
 public:
  ByteHold() = default;
  ByteHold(ByteHold&& other) noexcept
      : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  ByteHold& operator=(ByteHold&& other) noexcept {
    if (this != &other) {
      Release();
      budget_ = std::exchange(other.budget_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  ~ByteHold() { Release(); }

  // False: the budget has no more; what was held before still is.
  bool Grow(ByteBudget& budget, uint64_t bytes) {
    if (!budget.Take(bytes)) {
      return false;
    }
    budget_ = &budget;
    bytes_ += bytes;
    return true;
  }
  void Release() {
    if (budget_ != nullptr) {
      budget_->Give(std::exchange(bytes_, 0));
    }
  }

 private:
  ByteBudget* budget_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace thermocline
