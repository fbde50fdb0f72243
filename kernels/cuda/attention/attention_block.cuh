#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/attention_warp.cuh"

namespace thermocline {

// Blocks claim items until there are no more. The warps of a block share an item's pages; their
// states are merged in order, so that which block takes an item changes nothing.
template <typename Thread, int kDim, bool kPadded>
class AttentionBlock {
 public:
  HD AttentionBlock(Thread& thread, const AttentionLaunch& of) : x_(thread), of_(of) {}

  HD void Run() {
    x_.InitCopies(x_.template shared<uint64_t>(0) + x_.warp() * kStages, kStages);
    for (;;) {
      const uint32_t item = Claim();
      if (item >= static_cast<uint32_t>(of_.num_items)) {
        return;
      }
      RunItem(of_.items[item]);
    }
  }

 private:
  using Memory = AttentionMemory<kDim>;
  static constexpr uint32_t kClaim = 96;  // a word behind the barriers
  static_assert(8 * kItemWarps * kStages <= kClaim && kClaim + 4 <= Memory::kQueryRows);
  static constexpr uint32_t kStateFloats = kTileRows * (kDim + 2);
  static_assert(kStateFloats * 4 <= kStages * Memory::kStageBytes);

  HD uint32_t Claim() {
    auto* claim = x_.template shared<uint32_t>(kClaim);
    if (x_.thread() == 0) {
      *claim = x_.AtomicAdd(of_.next_item, 1);
    }
    x_.SyncThreads();
    return *claim;
  }

  HD void RunItem(const AttentionItem& item) {
    const AttentionTile& tile = of_.tiles[item.tile];
    QueryLoader<Thread, kDim>(x_, of_, tile).Run();
    x_.SyncThreads();
    AttentionWarp<Thread, kDim, kPadded> warp(x_, of_, tile);
    warp.Run(item.first_page + item.warp_begins[x_.warp()],
             item.first_page + item.warp_begins[x_.warp() + 1]);
    warp.StoreState(StateOf(x_.warp()));  // the warp's own ring, which is empty now
    x_.FenceCopies();
    x_.SyncThreads();
    for (int i = x_.thread(); i < kTileRows * kDim; i += kAttentionThreads) {
      MergeWarps(i / kDim, i % kDim,
                 of_.states + int64_t{item.state} * kTileRows * (of_.head_dim + 2));
    }
    x_.SyncThreads();  // before the rings and queries are written again
  }

  HD float* StateOf(int warp) const {
    return x_.template shared<float>(Memory::kRings + warp * kStages * Memory::kStageBytes);
  }

  HD void MergeWarps(int row, int dim, float* state) const {
    constexpr int kMax = kTileRows * kDim;
    float max = kLowestScore;
    for (int warp = 0; warp < kItemWarps; ++warp) {
      max = fmaxf(max, StateOf(warp)[kMax + row]);
    }
    float sum = 0;
    float out = 0;
    for (int warp = 0; warp < kItemWarps; ++warp) {
      const float* of_warp = StateOf(warp);
      const float weight = Thread::Exp2(of_warp[kMax + row] - max);
      sum = Thread::Fma(of_warp[kMax + kTileRows + row], weight, sum);
      out = Thread::Fma(of_warp[row * kDim + dim], weight, out);
    }
    if (dim < of_.head_dim) {
      float* to = state + row * (of_.head_dim + 2);
      to[dim] = out;
      if (dim == 0) {
        to[of_.head_dim] = max;
        to[of_.head_dim + 1] = sum;
      }
    }
  }

  Thread& x_;
  const AttentionLaunch& of_;
};

}  // namespace thermocline
