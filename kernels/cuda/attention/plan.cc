#include "kernels/cuda/attention/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/core/codebook.h"
#include "kernels/core/half.h"
#include "kernels/cuda/attention/level_bytes.h"
#include "kernels/cuda/attention/shape.h"
#include "kernels/quant/page_codec.h"

namespace thermocline {
namespace {

constexpr int kLargestHead = 256;

// Bytes of a page of each tier, all layers and heads: what reading it costs.
std::array<int64_t, kNumTiers> PageBytes(const KvCacheView& kv) {
  std::array<int64_t, kNumTiers> bytes{};
  for (int layer = 0; layer < kv.layout.num_layers; ++layer) {
    for (size_t tier = 0; tier < bytes.size(); ++tier) {
      bytes[tier] +=
          BlockLayoutOf(kv.format(layer, static_cast<Tier>(tier)).codec, kv.layout).bytes;
    }
  }
  return bytes;
}

class Planner {
 public:
  Planner(const BatchView& batch, int num_heads, const KvCacheView& kv, int window)
      : batch_(batch),
        group_(num_heads / kv.layout.num_kv_heads),
        kv_(kv),
        window_(window),
        page_bytes_(PageBytes(kv)) {}

  AttentionPlan Make() {
    for (int i = 0; i < batch_.page_starts[batch_.num_sequences]; ++i) {
      plan_.pages.push_back(kv_.page_map[batch_.page_ids[i]]);
    }
    for (int s = 0; s < batch_.num_sequences; ++s) {
      const int num_tokens = batch_.sequence_starts[s + 1] - batch_.sequence_starts[s];
      for (int first = 0; first < num_tokens * group_; first += kTileRows) {
        const int num_rows = std::min(kTileRows, num_tokens * group_ - first);
        for (int h = 0; h < kv_.layout.num_kv_heads; ++h) {
          AddTile(s, h, first, num_rows);
        }
      }
    }
    SortItems();
    return std::move(plan_);
  }

 private:
  void AddTile(int sequence, int kv_head, int first_row, int num_rows) {
    const int first_token = batch_.sequence_starts[sequence];
    const int end_token = batch_.sequence_starts[sequence + 1];
    const int first_position = batch_.positions[first_token + first_row / group_];
    const int last_position = batch_.positions[first_token + (first_row + num_rows - 1) / group_];
    CHECK(kv_.key_bias.num_pairs == 0 || last_position / 64 < kv_.key_bias.num_pages);
    const int first_page = window_ > 0 ? std::max(0, first_position - window_ + 1) / 64 : 0;
    const int observed_row = (end_token - kObservedTokens - first_token) * group_;
    AttentionTile tile;
    tile.first_token = first_token;
    tile.first_row = first_row;
    tile.num_rows = num_rows;
    tile.first_observed = std::clamp(observed_row - first_row, 0, num_rows);
    tile.kv_head = kv_head;
    tile.first_page = batch_.page_starts[sequence] + first_page;
    tile.num_pages = last_position / 64 - first_page + 1;
    tile.first_position = 64 * first_page;
    tile.first_state = plan_.num_states;
    tile.first_energy = plan_.num_energies;
    CHECK(tile.first_page + tile.num_pages <= batch_.page_starts[sequence + 1]);
    const int item_pages = std::clamp((tile.num_pages + 31) / 32, 8, 64);
    for (int page = 0; page < tile.num_pages; page += item_pages) {
      AddItem(tile, page, std::min(item_pages, tile.num_pages - page));
      ++tile.num_items;
    }
    plan_.num_energies += int64_t{tile.num_pages} * kTileRows;
    plan_.tiles.push_back(tile);
  }

  // A quarter of the bytes for each warp, as whole pages allow it.
  void AddItem(const AttentionTile& tile, int first_page, int num_pages) {
    const PageEntry* pages = plan_.pages.data() + tile.first_page + first_page;
    const auto bytes_of = [&](const PageEntry& entry) {
      return page_bytes_[static_cast<size_t>(entry.tier())];
    };
    const int64_t total =
        std::accumulate(pages, pages + num_pages, int64_t{0},
                        [&](int64_t sum, const PageEntry& entry) { return sum + bytes_of(entry); });
    AttentionItem item{.tile = static_cast<int32_t>(plan_.tiles.size()),
                       .state = plan_.num_states++,
                       .first_page = first_page};
    int page = 0;
    int64_t before = 0;
    for (int warp = 0; warp < kItemWarps; ++warp) {
      item.warp_begins[warp] = page;
      // A page belongs to the warp in whose quarter its middle lies.
      while (page < num_pages &&
             kItemWarps * (2 * before + bytes_of(pages[page])) < 2 * (warp + 1) * total) {
        before += bytes_of(pages[page++]);
      }
    }
    item.warp_begins[kItemWarps] = num_pages;
    plan_.items.push_back(item);
    costs_.push_back(total);
  }

  void SortItems() {
    std::vector<size_t> order(plan_.items.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return costs_[a] > costs_[b]; });
    std::vector<AttentionItem> items;
    items.reserve(order.size());
    for (const size_t i : order) {
      items.push_back(plan_.items[i]);
    }
    plan_.items = std::move(items);
  }

  const BatchView& batch_;
  int group_;
  const KvCacheView& kv_;
  int window_;
  std::array<int64_t, kNumTiers> page_bytes_;
  AttentionPlan plan_;
  std::vector<int64_t> costs_;
};

}  // namespace

Status CheckAttentionLayout(const KvLayout& layout) {
  if (layout.page_tokens != 64) {
    return {StatusCode::kUnimplemented,
            fmt::format("CUDA kernels read pages of 64 tokens, not of {}", layout.page_tokens)};
  }
  if (layout.head_dim <= 0 || layout.head_dim % 8 != 0 || layout.head_dim > kLargestHead) {
    return {StatusCode::kUnimplemented,
            fmt::format("CUDA kernels have head sizes that 8 divides, up to {}, not {}",
                        kLargestHead, layout.head_dim)};
  }
  return {};
}

AttentionPlan PlanAttention(const BatchView& batch, int num_heads, const KvCacheView& kv,
                            int window) {
  CHECK(CheckAttentionLayout(kv.layout).ok());
  CHECK(num_heads % kv.layout.num_kv_heads == 0 && window >= 0);
  return Planner(batch, num_heads, kv, window).Make();
}

std::vector<uint32_t> BiasAngles(const KeyBiasView& bias, int page_tokens) {
  const int num_steps = (bias.num_pairs + 7) / 8;
  std::vector<uint32_t> words;
  const auto angle = [&](int part, int pair, int token) {
    return pair < bias.num_pairs
               ? bias.token_angles[(part * bias.num_pairs + pair) * page_tokens + token]
               : 0.0F;
  };
  for (int token = 0; token < page_tokens; ++token) {
    for (int i = 0; i < num_steps * 4; ++i) {
      uint32_t lane[4] = {};
      for (int b = 0; b < 2; ++b) {
        for (int part = 0; part < 2; ++part) {
          const float x = angle(part, i / 4 * 8 + 4 * b + i % 4, token);
          const uint16_t high = FloatToHalf(x);
          lane[b] |= uint32_t{high} << 16 * part;
          lane[2 + b] |= uint32_t{FloatToHalf(x - HalfToFloat(high))} << 16 * part;
        }
      }
      words.insert(words.end(), lane, lane + 4);
    }
  }
  return words;
}

void SetLayer(const KvCacheView& kv, int layer, const uint32_t* angles, AttentionLaunch& launch) {
  const KvLayout& layout = kv.layout;
  launch.head_dim = layout.head_dim;
  launch.arena = kv.arena;
  launch.mean_keys = kv.mean_key(layer, 0);
  const bool has_bias = kv.key_bias.has(layer);
  for (int tier = 0; tier < kNumTiers; ++tier) {
    launch.formats[tier] = kv.format(layer, static_cast<Tier>(tier));
    CHECK(!IsMerged(launch.formats[tier].codec) || (!has_bias && launch.window == 0));
  }
  for (int bits = 2; bits <= 4; ++bits) {
    launch.levels[bits - 2] = LevelBytesOf(CodebookFor(layout.head_dim, bits));
  }
  if (has_bias) {
    launch.bias = {.angles = angles,
                   .num_pairs = kv.key_bias.num_pairs,
                   .biases = kv.key_bias_of(layer, 0),
                   .elements = kv.key_bias.elements,
                   .page_angles = kv.key_bias.page_angles,
                   .signs = kv.key_bias.signs};
  }
}

}  // namespace thermocline
