#include "engine/baselines/attention_mass.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/core/half.h"

// Written so that a compiler turns the inner loops into vector instructions of any kind: keys are
// transposed, 64 of them side by side.

namespace thermocline {
namespace {

constexpr int kTileRows = 32;
constexpr int kLanes = 64;  // keys side by side

// out [kLanes] = q . key for keys [dim, kLanes].
void ScoreKeys(const float* q, const float* keys, int dim, int num_keys, float* out) {
  constexpr int kStep = 16;
  for (int first = 0; first < num_keys; first += kStep) {
    float sums[kStep] = {};
    for (int i = 0; i < dim; ++i) {
      for (int j = 0; j < kStep; ++j) {
        sums[j] += q[i] * keys[i * kLanes + first + j];
      }
    }
    std::copy(sums, sums + kStep, out + first);
  }
}

// e^x for x <= 0, to some 2e-7 of its value: 2^n times a polynomial on [-1/2, 1/2].
float ExpOfNegative(float x) {
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number
  const float y = (x > -87.0F ? x : -87.0F) * 1.44269504F;
  const float shifted = y + kRounder;
  const float f = (y - (shifted - kRounder)) * 0.693147181F;
  float p = 1.0F / 720.0F;
  p = p * f + 1.0F / 120.0F;
  p = p * f + 1.0F / 24.0F;
  p = p * f + 1.0F / 6.0F;
  p = p * f + 0.5F;
  p = p * f + 1.0F;
  p = p * f + 1.0F;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) +
                              (std::bit_cast<uint32_t>(shifted) << 23));
}

// Scores -> mass: adds the softmax of `scores` to `mass`, both [count].
void AddSoftmax(float* scores, size_t count, float* mass) {
  float max = scores[0];
  for (size_t i = 1; i < count; ++i) {
    max = scores[i] > max ? scores[i] : max;
  }
  for (size_t i = 0; i < count; ++i) {
    scores[i] = ExpOfNegative(scores[i] - max);
  }
  float sums[16] = {};
  size_t whole = count / 16 * 16;
  for (size_t i = 0; i < whole; i += 16) {
    for (size_t j = 0; j < 16; ++j) {
      sums[j] += scores[i + j];
    }
  }
  float sum = 0;
  for (const float part : sums) {
    sum += part;
  }
  for (; whole < count; ++whole) {
    sum += scores[whole];
  }
  const float inverse = 1.0F / sum;
  for (size_t i = 0; i < count; ++i) {
    mass[i] += scores[i] * inverse;
  }
}

}  // namespace

struct AttentionMass::Scratch {
  std::vector<float> q;       // [rows x group, dim], scaled
  std::vector<float> keys;    // [dim, kLanes] of one page, those kept first
  std::vector<float> scores;  // [rows x group, stride]
  size_t stride = 0;
};

AttentionMass::AttentionMass(const KvLayout& layout, int num_heads, ThreadPool& pool)
    : layout_(layout), group_(num_heads / layout.num_kv_heads), pool_(pool) {
  CHECK(num_heads % layout.num_kv_heads == 0 && layout.page_tokens <= kLanes);
}

size_t AttentionMass::Offset(int layer, int kv_head) const {
  return static_cast<size_t>((layer * layout_.num_kv_heads + kv_head) * layout_.page_tokens);
}

void AttentionMass::Clear(PageId page) {
  if (pages_.size() <= page) {
    pages_.resize(size_t{page} + 1);
  }
  pages_[page].assign(Offset(layout_.num_layers, 0), 0.0F);
}

std::span<const float> AttentionMass::of(PageId page, int layer, int kv_head) const {
  CHECK(!pages_[page].empty());
  return std::span(pages_[page])
      .subspan(Offset(layer, kv_head), static_cast<size_t>(layout_.page_tokens));
}

void AttentionMass::Add(int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv,
                        const KeptTokens& kept, std::span<const Rows> rows) {
  CollectTiles(rows);
  pool_.ParallelFor(static_cast<int64_t>(num_tiles_), 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      Tile& tile = tiles_[static_cast<size_t>(i)];
      ScoreTile(layer, qkv, batch, kv, kept, tile, scratch);
      WeighTile(batch, tile, scratch);
    }
  });
  for (size_t i = 0; i < num_tiles_; ++i) {
    const Tile& tile = tiles_[i];
    const PageId* table = batch.page_ids + batch.page_starts[tile.sequence];
    const size_t offset = Offset(layer, tile.kv_head);
    for (size_t k = 0; k < tile.positions.size(); ++k) {
      const int position = tile.positions[k];
      std::vector<float>& page = pages_[table[position / layout_.page_tokens]];
      page[offset + static_cast<size_t>(position % layout_.page_tokens)] += tile.mass[k];
    }
  }
}

void AttentionMass::CollectTiles(std::span<const Rows> rows) {
  num_tiles_ = 0;
  for (size_t s = 0; s < rows.size(); ++s) {
    for (int first = rows[s].begin; first < rows[s].end; first += kTileRows) {
      for (int h = 0; h < layout_.num_kv_heads; ++h) {
        if (num_tiles_ == tiles_.size()) {
          tiles_.emplace_back();
        }
        Tile& tile = tiles_[num_tiles_++];
        tile.sequence = static_cast<int>(s);
        tile.kv_head = h;
        tile.first_row = first;
        tile.num_rows = std::min(kTileRows, rows[s].end - first);
      }
    }
  }
}

// scores = scaled q . k for all kept positions up to the tile's last.
void AttentionMass::ScoreTile(int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv,
                              const KeptTokens& kept, Tile& tile, Scratch& scratch) const {
  const int dim = layout_.head_dim;
  const auto row_size = static_cast<size_t>(dim);
  const auto num_queries = static_cast<size_t>(tile.num_rows * group_);
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  scratch.q.resize(num_queries * row_size);
  for (size_t r = 0; r < num_queries; ++r) {
    const auto row = static_cast<int>(r);
    const float* q = qkv.f32() + (tile.first_row + row / group_) * qkv.dim(1) +
                     (int64_t{tile.kv_head} * group_ + row % group_) * dim;
    std::transform(q, q + dim, scratch.q.begin() + static_cast<std::ptrdiff_t>(r * row_size),
                   [&](float x) { return x * scale; });
  }
  const int length = batch.positions[tile.first_row + tile.num_rows - 1] + 1;
  const PageId* table = batch.page_ids + batch.page_starts[tile.sequence];
  scratch.stride = static_cast<size_t>(length + kLanes);
  scratch.scores.resize(num_queries * scratch.stride);
  scratch.keys.resize(row_size * kLanes);
  tile.positions.clear();
  for (int first = 0; first < length; first += layout_.page_tokens) {
    const PageId page = table[first / layout_.page_tokens];
    const uint64_t mask = kept.of(page, layer, tile.kv_head);
    const auto* k = reinterpret_cast<const uint16_t*>(kv.block(page, layer, tile.kv_head));
    const size_t num_before = tile.positions.size();
    size_t num_keys = 0;
    for (int t = 0; t < layout_.page_tokens && first + t < length; ++t) {
      if ((mask >> t & 1) == 0) {
        continue;
      }
      for (size_t i = 0; i < row_size; ++i) {
        scratch.keys[i * kLanes + num_keys] = HalfToFloat(k[static_cast<size_t>(t) * row_size + i]);
      }
      tile.positions.push_back(first + t);
      ++num_keys;
    }
    for (size_t r = 0; r < num_queries; ++r) {
      ScoreKeys(scratch.q.data() + r * row_size, scratch.keys.data(), dim,
                static_cast<int>(num_keys),
                scratch.scores.data() + r * scratch.stride + num_before);
    }
  }
}

void AttentionMass::WeighTile(const BatchView& batch, Tile& tile, Scratch& scratch) const {
  tile.mass.assign(tile.positions.size(), 0.0F);
  for (int r = 0; r < tile.num_rows * group_; ++r) {
    const int position = batch.positions[tile.first_row + r / group_];
    const auto seen = std::upper_bound(tile.positions.begin(), tile.positions.end(), position) -
                      tile.positions.begin();
    if (seen > 0) {
      AddSoftmax(scratch.scores.data() + static_cast<size_t>(r) * scratch.stride,
                 static_cast<size_t>(seen), tile.mass.data());
    }
  }
}

}  // namespace thermocline
