#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/quantize.h"
#include "kernels/cuda/moves/move_tile.cuh"
#include "kernels/cuda/moves/page_moves.h"
#include "kernels/cuda/moves/round_keys.cuh"
#include "kernels/cuda/moves/tile.cuh"

namespace thermocline {

// ClusterTokens (kernels/quant/token_clusters.h) by one warp: Ward's method, ties to the earlier
// token. A lane has the rows of two tokens, `lane` and `lane + 32`. A cluster is known by its first
// token; distances to one that is gone, and to itself, are infinite.
template <typename Thread>
class WardRows {
 public:
  static constexpr int kTokens = kMergedTokens;
  static constexpr int kStride = kTokens + 1;
  static constexpr uint32_t kFloats = kTokens * kStride + 2 * kTokens;
  static constexpr uint32_t kSharedBytes = sizeof(float) * kFloats + 3 * kTokens;

  // memory: kSharedBytes, begins with distances [kTokens][kStride], which are squares.
  HD WardRows(const Thread& thread, float* memory)
      : thread_(thread),
        distances_(memory),
        nearest_distances_(memory + kTokens * kStride),
        sums_(nearest_distances_ + kTokens),
        nearest_(reinterpret_cast<uint8_t*>(sums_ + kTokens)),
        sizes_(nearest_ + kTokens),
        cluster_of_(sizes_ + kTokens) {}

  HD void Run() {
    ForOwn([&](int i) {
      for (int j = 0; j < kTokens; ++j) {
        At(i, j) = i == j ? INFINITY : At(i, j) * 0.5F;
      }
      sums_[i] = 0;
      sizes_[i] = 1;
      cluster_of_[i] = static_cast<uint8_t>(i);
      FindNearest(i);
    });
    thread_.SyncWarp();
    for (int n = kTokens; n > kMergedRows; --n) {
      MergeNearest();
    }
  }

  // What each row of the block is. spread: 0 where the queries are not known.
  HD void Store(RowChoice& choice, const float* logs, bool with_spread, uint16_t* log_weights) {
    ForOwn([&](int i) {
      choice.row_of[i] = static_cast<uint8_t>(RowOf(cluster_of_[i]));
      if (sizes_[i] > 0) {
        const int row = RowOf(i);
        const float spread =
            with_spread ? Thread::DivideExactly(sums_[i], static_cast<float>(sizes_[i])) : 0.0F;
        choice.sizes[row] = sizes_[i];
        log_weights[row] = ScaleToHalf(logs[sizes_[i]] + 0.5F * spread);
      }
    });
  }

 private:
  static constexpr int kNone = kTokens;

  HD float& At(int i, int j) const { return distances_[i * kStride + j]; }
  template <typename Visit>
  HD void ForOwn(Visit visit) const {
    visit(thread_.lane());
    visit(thread_.lane() + 32);
  }

  // The first of the least ones; kNone when none is finite.
  HD static int IndexOfLeast(const float* x) {
    float least = INFINITY;
    int index = kNone;
    for (int i = 0; i < kTokens; ++i) {
      index = x[i] < least ? i : index;
      least = x[i] < least ? x[i] : least;
    }
    return index;
  }
  HD void FindNearest(int i) {
    const int nearest = IndexOfLeast(&At(i, 0));
    nearest_[i] = static_cast<uint8_t>(nearest);
    nearest_distances_[i] = nearest == kNone ? INFINITY : At(i, nearest);
  }
  HD int NextCluster(int i) const {
    while (i < kTokens && sizes_[i] == 0) {
      ++i;
    }
    return i;
  }
  HD int RowOf(int cluster) const {
    int row = 0;
    for (int i = 0; i < cluster; ++i) {
      row += sizes_[i] > 0 ? 1 : 0;
    }
    return row;
  }

  HD void MergeNearest() {
    int first = IndexOfLeast(nearest_distances_);
    int second = first == kNone ? kNone : nearest_[first];
    if (first == kNone) {  // no distance is a number: any two
      first = NextCluster(0);
      second = NextCluster(first + 1);
    }
    first < second ? Merge(first, second) : Merge(second, first);
  }

  HD void Merge(int into, int gone) {
    const float apart = At(into, gone);
    const auto size_into = static_cast<float>(sizes_[into]);
    const auto size_gone = static_cast<float>(sizes_[gone]);
    thread_.SyncWarp();  // all have read
    if (thread_.lane() == 0) {
      sums_[into] += sums_[gone] + apart;
      sizes_[into] = static_cast<uint8_t>(sizes_[into] + sizes_[gone]);
      sizes_[gone] = 0;
      nearest_distances_[gone] = INFINITY;
    }
    thread_.SyncWarp();
    ForOwn([&](int i) {
      cluster_of_[i] = cluster_of_[i] == gone ? static_cast<uint8_t>(into) : cluster_of_[i];
      if (sizes_[i] > 0 && i != into) {  // Lance and Williams' recurrence
        const auto size = static_cast<float>(sizes_[i]);
        const float sum = (size_into + size) * At(into, i) + (size_gone + size) * At(gone, i);
        const float joined =
            Thread::DivideExactly(sum - size * apart, size_into + size_gone + size);
        At(into, i) = joined;
        At(i, into) = joined;
      }
      At(i, gone) = INFINITY;
    });
    thread_.SyncWarp();
    ForOwn([&](int i) {
      if (sizes_[i] > 0 && (i == into || nearest_[i] == into || nearest_[i] == gone)) {
        FindNearest(i);
      }
    });
    thread_.SyncWarp();
  }

  const Thread& thread_;
  float* distances_;
  float* nearest_distances_;  // [kTokens]
  float* sums_;               // [kTokens] of squared distances to the cluster's mean
  uint8_t* nearest_;          // [kTokens] other cluster, or kNone
  uint8_t* sizes_;            // [kTokens] 0: the cluster is gone
  uint8_t* cluster_of_;       // [kTokens]
};

// Chooses the rows of a block that is to be merged and writes their log weights, and the zeros
// behind these, to the new place. A warp a block; others have nothing to do.
template <typename Thread>
class RowChooser {
 public:
  static constexpr int kTokens = kMergedTokens;
  static constexpr int kStride = WardRows<Thread>::kStride;

  static HD uint32_t SharedBytes(const KvLayout& layout) {
    return sizeof(float) * static_cast<uint32_t>(TileColumns(layout.head_dim) * kStride + 16) +
           WardRows<Thread>::kSharedBytes;
  }

  HD RowChooser(const Thread& thread, const MoveBatch& of)
      : thread_(thread), of_(of), at_(of, thread.block()), dim_(of.kv.layout.head_dim) {
    auto* floats = thread.template shared<float>(0);
    y_ = floats;
    levels_ = y_ + TileColumns(dim_) * kStride;
    ward_ = levels_ + 16;
  }

  HD void Run() {
    const PageMove& move = of_.moves[at_.move];
    const Codec from = of_.kv.format(at_.layer, move.from.tier()).codec;
    const Codec to = of_.kv.format(at_.layer, move.to.tier()).codec;
    if (!IsMerged(to) || from == to) {
      return;
    }
    const float* factors = of_.kv.query_factors_of(at_.layer, at_.kv_head);
    LoadKeys(from, of_.kv.block_at(move.from, at_.layer, at_.kv_head));
    const Column<kStride> own[2] = {{y_ + thread_.lane()}, {y_ + thread_.lane() + 32}};
    if (factors != nullptr) {
      const FactorRows<Thread> rows(thread_, factors, dim_);
      TransformKeys(rows, own, [&](int v, int i, float key) {
        own[v][i] = key * Thread::SquareRoot(rows.diagonal(i));
      });
      thread_.SyncWarp();
    }
    MeasureDistances(own);
    thread_.SyncWarp();
    WardRows<Thread> ward(thread_, ward_);
    ward.Run();
    const BlockParts& parts = of_.tables.parts[static_cast<int>(to)];
    auto* log_weights = reinterpret_cast<uint16_t*>(
        of_.kv.block_at(move.to, at_.layer, at_.kv_head) + parts.log_weights);
    ward.Store(MoveWorkspaceOf(of_).choices[at_.in_workspace(of_.kv.layout)], of_.tables.logs,
               factors != nullptr, log_weights);
    const auto num_halves = static_cast<int>((parts.bytes - parts.log_weights) / 2);
    for (int i = kMergedRows + thread_.lane(); i < num_halves; i += 32) {
      log_weights[i] = 0;
    }
  }

 private:
  // y [TileColumns][kStride]: the keys less their head's mean, where the source holds it.
  HD void LoadKeys(Codec from, const std::byte* block) {
    const float* mean = from == Codec::kNative ? of_.kv.mean_key(at_.layer, at_.kv_head) : nullptr;
    const SourcePart<Thread> source(thread_, of_, from, true, block, levels_);
    source.Read([&](auto read) {
      for (int token = 0; token < kTokens; ++token) {
        for (int i = thread_.lane(); i < TileColumns(dim_); i += 32) {
          float value = i < dim_ ? read(token, i) : 0.0F;
          if (mean != nullptr && i < dim_) {
            value += -mean[i];
          }
          y_[i * kStride + token] = value;
        }
      }
    });
    thread_.SyncWarp();
  }

  // From eight tokens at a time to a lane's two. (a - b)^2 is (b - a)^2, so that a quarter is
  // copied.
  HD void MeasureDistances(const Column<kStride> (&own)[2]) {
    constexpr int kRows = 8;
    const int lane = thread_.lane();
    for (int first = 0; first < kTokens; first += kRows) {
      float sums[2][kRows] = {};
      for (int i = 0; i < dim_; ++i) {
        const float keys[2] = {own[0][i], own[1][i]};
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float other = y_[i * kStride + first + r];
          const float near = keys[0] - other;
          const float far = keys[1] - other;
          sums[0][r] += first < 32 ? near * near : 0.0F;
          sums[1][r] += far * far;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        ward_[(first + r) * kStride + lane + 32] = sums[1][r];
        if (first < 32) {
          ward_[(first + r) * kStride + lane] = sums[0][r];
          ward_[(lane + 32) * kStride + first + r] = sums[1][r];
        }
      }
    }
  }

  const Thread& thread_;
  const MoveBatch& of_;
  MoveBlock at_;
  int dim_;
  float* y_ = nullptr;
  float* levels_ = nullptr;
  float* ward_ = nullptr;  // WardRows' memory
};

}  // namespace thermocline
