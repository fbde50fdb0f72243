#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/core/page_energies.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/query_tile.h"

// Attention over paged K and V. The batch is cut into tiles (cpu_step.h), query tokens of one
// sequence and KV head: the heads of the group share each page that is read, whatever its tier.
// Long sequences are cut into splits of a fixed number of pages whose states are merged in order;
// where there are too few items for the threads, splits run beside each other. Both orders of work
// do the same arithmetic, so a row's result depends on its own sequence alone.

namespace thermocline {
namespace {

constexpr int kSplitPages = 4;
constexpr size_t kLoadedRows = 32;  // of queries, by one thread at a time

// What one thread needs; kept between calls.
struct Scratch {
  QueryTile rows;
  PageScratch page;
  SoftmaxStates merged;
  SoftmaxStates split;
};

// The first of `count` or more, of which none is given up: each keeps the memory that it has.
template <typename T>
T* AtLeast(size_t count, std::vector<T>& kept) {
  if (kept.size() < count) {
    kept.resize(count);
  }
  return kept.data();
}

class PagedAttentionLoop {
 public:
  explicit PagedAttentionLoop(const AttentionCall& call) : call_(call) {}

  size_t NumRows(const TileSpan& tile) const {
    return static_cast<size_t>(tile.num_tokens * call_.group());
  }
  int NumSplits(const TileSpan& tile) const {
    return (NumPages(tile) + kSplitPages - 1) / kSplitPages;
  }

  // All splits of a tile, one after the other. `then`: what this thread will probably read after
  // it. `energy`: see FoldEnergy.
  void RunTile(const TileSpan& tile, const TilePage& then, Scratch& scratch,
               std::vector<float>& energy) const {
    scratch.rows.Load(call_, tile);
    scratch.merged.Reset(NumRows(tile), Dim());
    for (int split = 0; split < NumSplits(tile); ++split) {
      const bool is_last = split + 1 == NumSplits(tile);
      RunSplit(tile, split, is_last ? then : FirstOfSplit(tile, split + 1), scratch.rows,
               scratch.page, scratch.split);
      Merge(scratch.split, scratch.merged);
    }
    StoreOutput(tile, scratch.merged);
    FoldEnergy(tile, scratch.merged, energy);
  }

  // One split of a tile whose rows are loaded, its state left in `state`.
  void RunSplit(const TileSpan& tile, int split, const TilePage& then, const QueryTile& rows,
                PageScratch& scratch, SoftmaxStates& state) const {
    const bool notes_energy = call_.observes() && FirstObservedRow(tile) < NumRows(tile);
    const int end = std::min((split + 1) * kSplitPages, NumPages(tile));
    state.Reset(NumRows(tile), Dim());
    for (int page = split * kSplitPages; page < end; ++page) {
      const TilePage next = page + 1 < end ? TilePage{&tile, page + 1} : then;
      rows.Attend(call_, page, next, notes_energy, scratch, state);
    }
  }

  TilePage FirstOfSplit(const TileSpan& tile, int split) const {
    return split < NumSplits(tile) ? TilePage{&tile, split * kSplitPages} : TilePage{};
  }

  void MergeSplits(const TileSpan& tile, const SoftmaxStates* splits, Scratch& scratch,
                   std::vector<float>& energy) const {
    scratch.merged.Reset(NumRows(tile), Dim());
    for (int split = 0; split < NumSplits(tile); ++split) {
      Merge(splits[split], scratch.merged);
    }
    StoreOutput(tile, scratch.merged);
    FoldEnergy(tile, scratch.merged, energy);
  }

  // The energies of the tiles' pages, several tiles of one sequence and head among them.
  void StoreEnergies(std::span<const TileSpan> tiles,
                     std::span<const std::vector<float>> energies) const {
    const auto num_kv_heads = static_cast<size_t>(call_.kv.layout.num_kv_heads);
    const BatchView& batch = call_.batch;
    const auto num_pages = static_cast<size_t>(batch.page_starts[batch.num_sequences]);
    std::fill_n(call_.params.page_energy, num_pages * num_kv_heads, 0.0F);
    for (size_t i = 0; i < tiles.size(); ++i) {
      float* pages = call_.params.page_energy +
                     static_cast<size_t>(batch.page_starts[tiles[i].sequence]) * num_kv_heads +
                     static_cast<size_t>(tiles[i].kv_head);
      for (size_t page = 0; page < energies[i].size(); ++page) {
        float& greatest = pages[page * num_kv_heads];
        greatest = std::max(greatest, energies[i][page]);
      }
    }
  }

 private:
  size_t Dim() const { return static_cast<size_t>(call_.padded_dim()); }
  int NumPages(const TileSpan& tile) const {
    const int last = call_.batch.positions[tile.first_token + tile.num_tokens - 1];
    return last / call_.kv.layout.page_tokens + 1;
  }

  // First row of the tile that is observed; NumRows: none.
  size_t FirstObservedRow(const TileSpan& tile) const {
    const int first = call_.batch.sequence_starts[tile.sequence + 1] - kObservedTokens;
    return static_cast<size_t>(std::clamp(first - tile.first_token, 0, tile.num_tokens) *
                               call_.group());
  }

  // With all pages merged the whole log sum is known: energy [pages] of the tile.
  void FoldEnergy(const TileSpan& tile, const SoftmaxStates& merged,
                  std::vector<float>& energy) const {
    const size_t num_rows = NumRows(tile);
    energy.assign(merged.log_energy.size() / num_rows, 0.0F);
    for (size_t r = FirstObservedRow(tile); r < num_rows; ++r) {
      const float twice_log_sum = 2 * LogSum(merged.max[r], merged.sum[r]);
      for (size_t page = 0; page < energy.size(); ++page) {
        energy[page] = std::max(energy[page],
                                std::exp(merged.log_energy[page * num_rows + r] - twice_log_sum));
      }
    }
  }

  void Merge(const SoftmaxStates& from, SoftmaxStates& to) const {
    for (size_t r = 0; r < to.max.size(); ++r) {
      call_.isa.merge_state(from.max[r], from.sum[r], from.o.data() + r * Dim(), call_.padded_dim(),
                            &to.max[r], &to.sum[r], to.o.data() + r * Dim());
    }
    to.log_energy.insert(to.log_energy.end(), from.log_energy.begin(), from.log_energy.end());
  }

  void StoreOutput(const TileSpan& tile, const SoftmaxStates& state) const {
    const int head_dim = call_.kv.layout.head_dim;
    const int group = call_.group();
    for (size_t r = 0; r < NumRows(tile); ++r) {
      const int64_t token = tile.first_token + static_cast<int64_t>(r) / group;
      const int64_t head = int64_t{tile.kv_head} * group + static_cast<int64_t>(r) % group;
      float* out = call_.out.f32() + (token * call_.num_heads + head) * head_dim;
      const float* o = state.o.data() + r * Dim();
      const float inverse = 1.0F / state.sum[r];
      for (int i = 0; i < head_dim; ++i) {
        out[i] = o[i] * inverse;
      }
    }
  }

  const AttentionCall& call_;
};

}  // namespace

void CpuOps::PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                            const KvCacheView& kv, const AttentionParams& params, Tensor out,
                            Stream& /*stream*/) const {
  CHECK(kv.layout.page_tokens % 32 == 0 && kv.layout.page_tokens <= 64);
  const AttentionCall call{isa_, qkv, num_heads, batch, kv, params, out};
  const PagedAttentionLoop loop(call);
  // A set for each thread, kept so that a step allocates nothing once the sizes have been seen.
  thread_local std::vector<TileSpan> tiles;
  thread_local std::vector<QueryTile> loaded;
  thread_local std::vector<SoftmaxStates> states;
  thread_local std::vector<std::vector<float>> energies;
  const auto* step = static_cast<const CpuStep*>(batch.on_device);
  if (step == nullptr) {
    CutIntoTiles(batch, kv.layout, num_heads, tiles);
  }
  CHECK(step == nullptr || step->num_heads == num_heads);
  // The caller's, for the pool's threads.
  const std::vector<TileSpan>& all = step == nullptr ? tiles : step->tiles;
  const auto num_tiles = static_cast<int64_t>(all.size());

  std::vector<float>* tile_energies = AtLeast(all.size(), energies);
  const auto store_energies = [&] {
    if (call.observes()) {
      loop.StoreEnergies(all, std::span(tile_energies, all.size()));
    }
  };

  int max_splits = 1;
  for (const TileSpan& tile : all) {
    max_splits = std::max(max_splits, loop.NumSplits(tile));
  }
  if (max_splits == 1 || num_tiles >= int64_t{8} * pool_.num_threads()) {
    pool_.ParallelFor(num_tiles, 1, [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t next = i + pool_.num_threads();  // the others take those between
        const TilePage then =
            next < num_tiles ? TilePage{&all[static_cast<size_t>(next)], 0} : TilePage{};
        loop.RunTile(all[static_cast<size_t>(i)], then, scratch, tile_energies[i]);
      }
    });
    store_energies();
    return;
  }
  const size_t num_states = all.size() * static_cast<size_t>(max_splits);
  SoftmaxStates* split_states = AtLeast(num_states, states);
  QueryTile* rows = AtLeast(all.size(), loaded);
  const auto grain = static_cast<int64_t>(kLoadedRows / loop.NumRows(all.front()));
  pool_.ParallelFor(num_tiles, std::max(int64_t{1}, grain), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      rows[i].Load(call, all[static_cast<size_t>(i)]);
    }
  });
  pool_.ParallelFor(num_tiles * max_splits, 1, [&](int64_t begin, int64_t end) {
    thread_local PageScratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      const TileSpan& tile = all[static_cast<size_t>(i / max_splits)];
      const int split = static_cast<int>(i % max_splits);
      if (split < loop.NumSplits(tile)) {
        const TilePage then = loop.FirstOfSplit(tile, split + pool_.num_threads());
        loop.RunSplit(tile, split, then, rows[i / max_splits], scratch, split_states[i]);
      }
    }
  });
  pool_.ParallelFor(num_tiles, 4, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      loop.MergeSplits(all[static_cast<size_t>(i)], split_states + i * max_splits, scratch,
                       tile_energies[i]);
    }
  });
  store_energies();
}

}  // namespace thermocline
