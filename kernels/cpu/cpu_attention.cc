#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/quant/page_codec.h"

// Attention over paged K and V. A work item is a tile of query tokens of one sequence and KV head:
// the heads of the group share each page that is read, whatever its tier. Long sequences are cut
// into splits of a fixed number of pages whose states are merged in order; where there are too few
// items for the threads, splits run beside each other. Both orders of work do the same arithmetic,
// so a row's result depends on its own sequence alone.

namespace thermocline {
namespace {

constexpr int kTileRows = 96;  // as many pay for widening a page
constexpr int kSplitPages = 4;

struct Item {
  int sequence;
  int kv_head;
  int first_token;  // in the batch
  int num_tokens;
};

// Online-softmax state of an item's rows after some of its pages.
struct State {
  std::vector<float> max;
  std::vector<float> sum;
  std::vector<float> o;           // [num_rows, dim]
  std::vector<float> log_energy;  // [pages, num_rows]: of each page less twice the whole log sum

  void Reset(size_t num_rows, size_t dim) {
    max.assign(num_rows, -INFINITY);
    sum.assign(num_rows, 0.0F);
    o.assign(num_rows * dim, 0.0F);
    log_energy.clear();
  }
};

// What one thread needs beside the state; kept between calls.
struct Scratch {
  std::vector<float> page;           // two buffers [page_tokens, dim], and what aligns them
  std::vector<float> q;              // [num_rows, dim], scaled
  std::vector<float> bias;           // [num_rows], of coded pages
  std::vector<float> bias_products;  // [num_rows][2][head_dim / 2]: see BiasScores; may be empty
  std::vector<float> key_query;      // [head_dim]
  std::vector<int32_t> num_valid;
  std::vector<float> page_max;  // [num_rows]
  std::vector<float> page_sum;
  State merged;
  State split;
};

class PagedAttentionLoop {
 public:
  PagedAttentionLoop(const IsaTable& isa, Tensor qkv, int num_heads, const BatchView& batch,
                     const KvCacheView& kv, const AttentionParams& params, Tensor out)
      : isa_(isa),
        qkv_(qkv),
        num_heads_(num_heads),
        group_(num_heads / kv.layout.num_kv_heads),
        dim_((kv.layout.head_dim + 31) / 32 * 32),
        batch_(batch),
        kv_(kv),
        params_(params),
        out_(out) {}

  void CollectItems(std::vector<Item>& items) const {
    const int tile_tokens = std::max(1, kTileRows / group_);
    items.clear();
    for (int s = 0; s < batch_.num_sequences; ++s) {
      const int end = batch_.sequence_starts[s + 1];
      for (int t = batch_.sequence_starts[s]; t < end; t += tile_tokens) {
        for (int h = 0; h < kv_.layout.num_kv_heads; ++h) {
          items.push_back({s, h, t, std::min(tile_tokens, end - t)});
        }
      }
    }
  }

  int NumSplits(const Item& item) const {
    const int last = batch_.positions[item.first_token + item.num_tokens - 1];
    const int num_pages = last / kv_.layout.page_tokens + 1;
    return (num_pages + kSplitPages - 1) / kSplitPages;
  }

  size_t NumRows(const Item& item) const { return static_cast<size_t>(item.num_tokens * group_); }

  // All splits of an item, one after the other. `energy`: see FoldEnergy.
  void RunItem(const Item& item, Scratch& scratch, std::vector<float>& energy) const {
    LoadQueries(item, scratch);
    scratch.merged.Reset(NumRows(item), Dim());
    for (int split = 0; split < NumSplits(item); ++split) {
      RunSplit(item, split, scratch, scratch.split);
      Merge(scratch.split, scratch.merged);
    }
    StoreOutput(item, scratch.merged);
    FoldEnergy(item, scratch.merged, energy);
  }

  // One split of an item, its state left in `state`.
  void RunSplitAlone(const Item& item, int split, Scratch& scratch, State& state) const {
    LoadQueries(item, scratch);
    RunSplit(item, split, scratch, state);
  }

  void MergeSplits(const Item& item, const State* splits, Scratch& scratch,
                   std::vector<float>& energy) const {
    scratch.merged.Reset(NumRows(item), Dim());
    for (int split = 0; split < NumSplits(item); ++split) {
      Merge(splits[split], scratch.merged);
    }
    StoreOutput(item, scratch.merged);
    FoldEnergy(item, scratch.merged, energy);
  }

  bool observes() const { return params_.page_energy != nullptr; }

  // The energies of the items' pages, several items of one sequence and head among them.
  void StoreEnergies(std::span<const Item> items,
                     std::span<const std::vector<float>> energies) const {
    const auto num_kv_heads = static_cast<size_t>(kv_.layout.num_kv_heads);
    const auto num_pages = static_cast<size_t>(batch_.page_starts[batch_.num_sequences]);
    std::fill_n(params_.page_energy, num_pages * num_kv_heads, 0.0F);
    for (size_t i = 0; i < items.size(); ++i) {
      float* pages = params_.page_energy +
                     static_cast<size_t>(batch_.page_starts[items[i].sequence]) * num_kv_heads +
                     static_cast<size_t>(items[i].kv_head);
      for (size_t page = 0; page < energies[i].size(); ++page) {
        float& greatest = pages[page * num_kv_heads];
        greatest = std::max(greatest, energies[i][page]);
      }
    }
  }

 private:
  size_t Dim() const { return static_cast<size_t>(dim_); }

  // Rows are [token][head of the group].
  void LoadQueries(const Item& item, Scratch& scratch) const {
    const int head_dim = kv_.layout.head_dim;
    scratch.q.assign(NumRows(item) * Dim(), 0.0F);
    float* out = scratch.q.data();
    for (int t = 0; t < item.num_tokens; ++t) {
      const float* row = qkv_.f32() + int64_t{item.first_token + t} * qkv_.dim(1) +
                         int64_t{item.kv_head} * group_ * head_dim;
      for (int h = 0; h < group_; ++h, out += dim_) {
        for (int i = 0; i < head_dim; ++i) {
          out[i] = row[int64_t{h} * head_dim + i] * params_.scale;
        }
      }
    }
    scratch.bias.assign(NumRows(item), 0.0F);
    const float* mean_key = kv_.mean_key(params_.layer, item.kv_head);
    for (size_t r = 0; r < NumRows(item) && mean_key != nullptr; ++r) {
      for (size_t i = 0; i < static_cast<size_t>(head_dim); ++i) {
        scratch.bias[r] += scratch.q[r * Dim() + i] * mean_key[i];
      }
    }
    LoadBiasProducts(item, scratch);
  }

  // Each row's conj(q) b, q in the basis that keys have before they are rotated into the pages'.
  void LoadBiasProducts(const Item& item, Scratch& scratch) const {
    const KeyBiasView& bias = kv_.key_bias;
    scratch.bias_products.clear();
    if (!bias.has(params_.layer)) {
      return;
    }
    const auto num_pairs = static_cast<size_t>(bias.num_pairs);
    const float* real = kv_.key_bias_of(params_.layer, item.kv_head);
    const float* imaginary = real + num_pairs;
    scratch.bias_products.resize(NumRows(item) * 2 * num_pairs);
    for (size_t r = 0; r < NumRows(item); ++r) {
      const float* row = scratch.q.data() + r * Dim();
      scratch.key_query.assign(row, row + kv_.layout.head_dim);
      isa_.rotate_vector(scratch.key_query.data(), bias.signs, kv_.layout.head_dim, true);
      float* products = scratch.bias_products.data() + r * 2 * num_pairs;
      for (size_t i = 0; i < num_pairs; ++i) {
        const float a = scratch.key_query[static_cast<size_t>(bias.elements[i])];
        const float b = scratch.key_query[static_cast<size_t>(bias.elements[num_pairs + i])];
        products[i] = a * real[i] + b * imaginary[i];
        products[num_pairs + i] = a * imaginary[i] - b * real[i];
      }
    }
  }

  BiasScores BiasOfPage(int page_index, const Scratch& scratch) const {
    const KeyBiasView& bias = kv_.key_bias;
    if (scratch.bias_products.empty()) {
      return {};
    }
    CHECK(page_index < bias.num_pages);
    return {.products = scratch.bias_products.data(),
            .page_angles = bias.page_angles + int64_t{page_index} * 2 * bias.num_pairs,
            .token_angles = bias.token_angles,
            .num_pairs = bias.num_pairs};
  }

  // First row of the item that is observed; NumRows: none.
  size_t FirstObservedRow(const Item& item) const {
    const int first = batch_.sequence_starts[item.sequence + 1] - kObservedTokens;
    return static_cast<size_t>(std::clamp(first - item.first_token, 0, item.num_tokens) * group_);
  }

  // With all pages merged the whole log sum is known: energy [pages] of the item.
  void FoldEnergy(const Item& item, const State& merged, std::vector<float>& energy) const {
    const size_t num_rows = NumRows(item);
    energy.assign(merged.log_energy.size() / num_rows, 0.0F);
    for (size_t r = FirstObservedRow(item); r < num_rows; ++r) {
      const float twice_log_sum = 2 * (merged.max[r] + std::log(merged.sum[r]));
      for (size_t page = 0; page < energy.size(); ++page) {
        energy[page] = std::max(energy[page],
                                std::exp(merged.log_energy[page * num_rows + r] - twice_log_sum));
      }
    }
  }

  void NoteEnergy(const Scratch& scratch, State& state) const {
    for (size_t r = 0; r < state.max.size(); ++r) {
      state.log_energy.push_back(state.max[r] + std::log(scratch.page_sum[r]) +
                                 scratch.page_max[r]);
    }
  }

  void RunSplit(const Item& item, int split, Scratch& scratch, State& state) const {
    const int page_tokens = kv_.layout.page_tokens;
    const int last = batch_.positions[item.first_token + item.num_tokens - 1];
    const int end = std::min((split + 1) * kSplitPages, last / page_tokens + 1);
    state.Reset(NumRows(item), Dim());
    scratch.num_valid.resize(NumRows(item));
    for (int page = split * kSplitPages; page < end; ++page) {
      for (size_t r = 0; r < NumRows(item); ++r) {
        const int position = batch_.positions[item.first_token + static_cast<int>(r) / group_];
        scratch.num_valid[r] = std::clamp(position + 1 - page * page_tokens, 0, page_tokens);
      }
      scratch.page_max.assign(NumRows(item), -INFINITY);
      scratch.page_sum.assign(NumRows(item), 0.0F);
      AttendPage(item, page, std::min(page_tokens, last + 1 - page * page_tokens), scratch, state);
      if (observes()) {
        NoteEnergy(scratch, state);
      }
    }
  }

  // One page of any tier; its first `num_written` positions hold something.
  void AttendPage(const Item& item, int page_index, int num_written, Scratch& scratch,
                  State& state) const {
    const PageId page = batch_.page_ids[batch_.page_starts[item.sequence] + page_index];
    const Codec codec = kv_.format(params_.layer, kv_.page_map[page].tier()).codec;
    const std::byte* block = kv_.block(page, params_.layer, item.kv_head);
    if (codec != Codec::kNative) {
      AttendCoded(codec, block, page_index, scratch, state);
      return;
    }
    isa_.attend_page({.k = reinterpret_cast<const uint16_t*>(block),
                      .v = reinterpret_cast<const uint16_t*>(block + NativeVOffset(kv_.layout)),
                      .head_dim = kv_.layout.head_dim,
                      .page_tokens = kv_.layout.page_tokens,
                      .num_written = num_written,
                      .rows = Rows(scratch, state),
                      .keep = kv_.keep_mask(page, params_.layer, item.kv_head),
                      .buffers = Buffers(scratch)});
  }

  QueryRows Rows(Scratch& scratch, State& state) const {
    return {.q = scratch.q.data(),
            .num_valid = scratch.num_valid.data(),
            .num_rows = static_cast<int32_t>(state.max.size()),
            .dim = dim_,
            .max = state.max.data(),
            .sum = state.sum.data(),
            .o = state.o.data(),
            .page_max = scratch.page_max.data(),
            .page_sum = scratch.page_sum.data()};
  }

  PageBuffers Buffers(Scratch& scratch) const {
    const size_t size = static_cast<size_t>(kv_.layout.page_tokens) * Dim();
    scratch.page.resize(2 * size + 16);
    void* aligned = scratch.page.data();
    size_t space = scratch.page.size() * sizeof(float);
    auto* k = static_cast<float*>(std::align(64, 2 * size * sizeof(float), aligned, space));
    return {.k = k, .v = k + size};
  }

  void AttendCoded(Codec codec, const std::byte* block, int page_index, Scratch& scratch,
                   State& state) const {
    const KvLayout& layout = kv_.layout;
    const BlockLayout at = BlockLayoutOf(codec, layout);
    const auto* bytes = reinterpret_cast<const uint8_t*>(block);
    const auto halves = [&](uint32_t offset) {
      return static_cast<const uint16_t*>(static_cast<const void*>(block + offset));
    };
    const int k_bits = KeyBits(codec);
    const int v_bits = ValueBits(codec);
    isa_.attend_coded_page({.k_codes = bytes,
                            .v_codes = bytes + at.v_codes,
                            .k_scales = halves(at.k_scales),
                            .v_scales = halves(at.v_scales),
                            .k_levels = CodebookFor(layout.head_dim, k_bits).levels,
                            .v_levels = CodebookFor(layout.head_dim, v_bits).levels,
                            .k_bits = k_bits,
                            .v_bits = v_bits,
                            .page_tokens = layout.page_tokens,
                            .num_values = (layout.head_dim + 15) / 16,
                            .rows = Rows(scratch, state),
                            .bias = scratch.bias.data(),
                            .key_bias = BiasOfPage(page_index, scratch),
                            .buffers = Buffers(scratch)});
  }

  void Merge(const State& from, State& to) const {
    for (size_t r = 0; r < to.max.size(); ++r) {
      isa_.merge_state(from.max[r], from.sum[r], from.o.data() + r * Dim(), dim_, &to.max[r],
                       &to.sum[r], to.o.data() + r * Dim());
    }
    to.log_energy.insert(to.log_energy.end(), from.log_energy.begin(), from.log_energy.end());
  }

  void StoreOutput(const Item& item, const State& state) const {
    const int head_dim = kv_.layout.head_dim;
    for (size_t r = 0; r < NumRows(item); ++r) {
      const int64_t token = item.first_token + static_cast<int64_t>(r) / group_;
      const int64_t head = int64_t{item.kv_head} * group_ + static_cast<int64_t>(r) % group_;
      float* out = out_.f32() + (token * num_heads_ + head) * head_dim;
      const float* o = state.o.data() + r * Dim();
      const float inverse = 1.0F / state.sum[r];
      for (int i = 0; i < head_dim; ++i) {
        out[i] = o[i] * inverse;
      }
    }
  }

  const IsaTable& isa_;
  Tensor qkv_;
  int num_heads_;
  int group_;
  int32_t dim_;  // head_dim, padded to whole vectors
  const BatchView& batch_;
  const KvCacheView& kv_;
  const AttentionParams& params_;
  Tensor out_;
};

}  // namespace

void CpuOps::PagedAttention(Tensor qkv, int num_heads, const BatchView& batch,
                            const KvCacheView& kv, const AttentionParams& params, Tensor out,
                            Stream& /*stream*/) const {
  CHECK(num_heads % kv.layout.num_kv_heads == 0);
  CHECK(kv.layout.page_tokens % 32 == 0 && kv.layout.page_tokens <= 64);
  const PagedAttentionLoop loop(isa_, qkv, num_heads, batch, kv, params, out);
  // One set per thread, kept so that a step allocates nothing once the sizes have been seen.
  thread_local std::vector<Item> items;
  thread_local std::vector<State> states;
  thread_local std::vector<std::vector<float>> energies;
  loop.CollectItems(items);
  const std::vector<Item>& all = items;  // the caller's, for the pool's threads
  const auto num_items = static_cast<int64_t>(all.size());

  if (energies.size() < all.size()) {
    energies.resize(all.size());
  }
  std::vector<float>* item_energies = energies.data();
  const auto store_energies = [&] {
    if (loop.observes()) {
      loop.StoreEnergies(all, std::span(item_energies, all.size()));
    }
  };

  int max_splits = 1;
  for (const Item& item : all) {
    max_splits = std::max(max_splits, loop.NumSplits(item));
  }
  if (max_splits == 1 || num_items >= int64_t{8} * pool_.num_threads()) {
    pool_.ParallelFor(num_items, 1, [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      for (int64_t i = begin; i < end; ++i) {
        loop.RunItem(all[static_cast<size_t>(i)], scratch, item_energies[i]);
      }
    });
    store_energies();
    return;
  }
  const size_t num_states = all.size() * static_cast<size_t>(max_splits);
  if (states.size() < num_states) {
    states.resize(num_states);
  }
  State* split_states = states.data();
  pool_.ParallelFor(num_items * max_splits, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      const Item& item = all[static_cast<size_t>(i / max_splits)];
      const int split = static_cast<int>(i % max_splits);
      if (split < loop.NumSplits(item)) {
        loop.RunSplitAlone(item, split, scratch, split_states[i]);
      }
    }
  });
  pool_.ParallelFor(num_items, 4, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      loop.MergeSplits(all[static_cast<size_t>(i)], split_states + i * max_splits, scratch,
                       item_energies[i]);
    }
  });
  store_energies();
}

}  // namespace thermocline
