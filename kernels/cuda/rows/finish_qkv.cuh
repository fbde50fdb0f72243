#pragma once

#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/hadamard.h"
#include "kernels/cuda/rows/row_launches.h"

namespace thermocline {

// A warp does a vector, of which it has a copy in shared memory. Sums and products have the order
// of Rope and of kernels/core/hadamard.h.
template <typename Thread>
class QkvFinisher {
 public:
  static constexpr int kWarps = 4;
  static HD uint32_t SharedBytes(const QkvLaunch& of) {
    return kWarps * static_cast<uint32_t>(of.head_dim) * sizeof(float);
  }
  static HD int64_t NumBlocks(const QkvLaunch& of) {
    return (int64_t{of.num_tokens} * NumVectors(of) + kWarps - 1) / kWarps;
  }

  HD QkvFinisher(const Thread& thread, const QkvLaunch& of)
      : thread_(thread),
        of_(of),
        lane_(thread.lane()),
        x_(thread.template shared<float>(static_cast<uint32_t>(thread.warp() * of.head_dim) *
                                         sizeof(float))) {}

  HD void Run() {
    const int64_t index = int64_t{thread_.block()} * kWarps + thread_.warp();
    token_ = index / NumVectors(of_);
    vector_ = static_cast<int>(index % NumVectors(of_));
    if (token_ >= of_.num_tokens) {
      return;
    }
    float* at = of_.qkv + token_ * of_.row_width + int64_t{vector_} * of_.head_dim;
    const float* bias = of_.bias == nullptr ? nullptr : of_.bias + int64_t{vector_} * of_.head_dim;
    for (int i = lane_; i < of_.head_dim; i += 32) {
      x_[i] = bias == nullptr ? at[i] : Thread::Add(at[i], bias[i]);
    }
    thread_.SyncWarp();
    if (of_.cos_sin != nullptr && vector_ < of_.num_heads + of_.num_kv_heads) {
      Turn();
    }
    if (of_.signs != nullptr) {
      Rotate();
    }
    if (of_.arena == nullptr || vector_ < of_.num_heads) {
      for (int i = lane_; i < of_.head_dim; i += 32) {
        at[i] = x_[i];
      }
    } else {
      Append();
    }
  }

 private:
  // Query heads, then those of K, then those of V.
  static HD int NumVectors(const QkvLaunch& of) { return of.num_heads + 2 * of.num_kv_heads; }

  HD void Turn() {
    const float* angles = of_.cos_sin + token_ * of_.num_pairs * 2;
    for (int i = lane_; i < of_.num_pairs; i += 32) {
      const RopePair pair = RopePairOf(of_.style, of_.num_pairs, i);
      const float a = x_[pair.first];
      const float b = x_[pair.second];
      const float cos = angles[2 * i];
      const float sin = angles[2 * i + 1];
      x_[pair.first] = a * cos - b * sin;
      x_[pair.second] = a * sin + b * cos;
    }
    thread_.SyncWarp();
  }

  HD void Sign() {  // each lane its own elements
    for (int i = lane_; i < of_.head_dim; i += 32) {
      x_[i] *= of_.signs[i];
    }
  }
  HD void Rotate() {
    if (!of_.rotates_back) {
      Sign();
      thread_.SyncWarp();
    }
    for (int done = 0; done < of_.head_dim;) {
      const int size = LargestPowerOfTwo(of_.head_dim - done);
      HadamardOf(x_ + done, size);
      done += size;
    }
    if (of_.rotates_back) {
      Sign();
    }
    thread_.SyncWarp();
  }
  HD void HadamardOf(float* x, int size) {
    for (int half = 1; half < size; half *= 2) {
      for (int i = lane_; i < size / 2; i += 32) {
        float* a = x + 2 * (i & ~(half - 1)) + (i & (half - 1));
        const float sum = a[0] + a[half];
        a[half] = a[0] - a[half];
        a[0] = sum;
      }
      thread_.SyncWarp();
    }
    const float scale = InverseSqrtOfPower(size);
    for (int i = lane_; i < size; i += 32) {
      x[i] *= scale;
    }
    thread_.SyncWarp();
  }

  HD void Append() const {
    const PageEntry page = of_.token_pages[token_];
    if (page.tier() != Tier::kHot) {
      return;
    }
    const int of_kv = vector_ - of_.num_heads;
    const bool is_key = of_kv < of_.num_kv_heads;
    const int kv_head = is_key ? of_kv : of_kv - of_.num_kv_heads;
    const int row = of_.positions[token_] % of_.page_tokens + (is_key ? 0 : of_.page_tokens);
    std::byte* block = of_.arena + page.offset() + of_.format.layer_offset +
                       static_cast<size_t>(kv_head) * of_.format.head_stride;
    auto* to = reinterpret_cast<uint16_t*>(block) + int64_t{row} * of_.head_dim;
    for (int i = lane_; i < of_.head_dim; i += 32) {
      to[i] = static_cast<uint16_t>(Thread::HalfOf(x_[i]));
    }
  }

  const Thread& thread_;
  const QkvLaunch& of_;
  int lane_;
  float* x_;  // [head_dim]
  int64_t token_ = 0;
  int vector_ = 0;
};

}  // namespace thermocline
