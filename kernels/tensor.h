#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/base/check.h"

namespace thermocline {

enum class DType : uint8_t { kF32, kF16, kBF16, kI32 };

constexpr size_t DTypeBytes(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kI32 ? 4 : 2;
}

// A non-owning, row-major, contiguous view of at most four dimensions. Copied freely; whoever made
// the memory keeps it alive until the stream that the view was handed to has passed it.
class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> dims)
      : data_(data), dtype_(dtype), rank_(static_cast<int>(dims.size())) {
    CHECK(dims.size() <= dims_.size());
    size_t i = 0;
    for (const int64_t dim : dims) {
      dims_[i++] = dim;
    }
  }
  Tensor(float* data, std::initializer_list<int64_t> dims) : Tensor(data, DType::kF32, dims) {}

  int rank() const { return rank_; }
  int64_t dim(int i) const {
    CHECK(i >= 0 && i < rank_);
    return dims_[static_cast<size_t>(i)];
  }
  DType dtype() const { return dtype_; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) {
      n *= dims_[static_cast<size_t>(i)];
    }
    return n;
  }

  void* data() const { return data_; }
  float* f32() const {
    CHECK(dtype_ == DType::kF32);
    return static_cast<float*>(data_);
  }

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, 4> dims_{};
};

}  // namespace thermocline
