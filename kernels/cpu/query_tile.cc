#include "kernels/cpu/query_tile.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/base/check.h"
#include "kernels/core/page_energies.h"
#include "kernels/quant/page_codec.h"

namespace thermocline {
namespace {

// The block of a page, or null if the page has another codec.
const std::byte* BlockOf(const AttentionCall& call, const TilePage& place, Codec codec) {
  if (place.tile == nullptr) {
    return nullptr;
  }
  const BatchView& batch = call.batch;
  const PageId page = batch.page_ids[batch.page_starts[place.tile->sequence] + place.index];
  const Tier tier = call.kv.page_map[page].tier();
  return call.kv.format(call.params.layer, tier).codec == codec
             ? call.kv.block(page, call.params.layer, place.tile->kv_head)
             : nullptr;
}

PageBuffers Buffers(const AttentionCall& call, std::vector<float>& floats) {
  const auto size = static_cast<size_t>(call.kv.layout.page_tokens * call.padded_dim());
  floats.resize(2 * size + 16);
  void* aligned = floats.data();
  size_t space = floats.size() * sizeof(float);
  auto* k = static_cast<float*>(std::align(64, 2 * size * sizeof(float), aligned, space));
  return {.k = k, .v = k + size};
}

}  // namespace

void SoftmaxStates::Reset(size_t num_rows, size_t dim) {
  max.assign(num_rows, -INFINITY);
  sum.assign(num_rows, 0.0F);
  o.assign(num_rows * dim, 0.0F);
  log_energy.clear();
}

void QueryTile::Load(const AttentionCall& call, const TileSpan& tile) {
  const int head_dim = call.kv.layout.head_dim;
  const int group = call.group();
  const auto dim = static_cast<size_t>(call.padded_dim());
  tile_ = tile;
  num_rows_ = static_cast<size_t>(tile.num_tokens * group);
  q_.assign(num_rows_ * dim, 0.0F);
  float* out = q_.data();
  for (int t = 0; t < tile.num_tokens; ++t) {
    const float* row = call.qkv.f32() + int64_t{tile.first_token + t} * call.qkv.dim(1) +
                       int64_t{tile.kv_head} * group * head_dim;
    for (int h = 0; h < group; ++h, out += dim) {
      for (int i = 0; i < head_dim; ++i) {
        out[i] = row[int64_t{h} * head_dim + i] * call.params.scale;
      }
    }
  }
  q_words_.resize(num_rows_ * dim / 2);
  q_steps_.resize(num_rows_);
  call.isa.narrow_queries({.q = q_.data(),
                           .num_rows = static_cast<int32_t>(num_rows_),
                           .dim = call.padded_dim(),
                           .words = q_words_.data(),
                           .steps = q_steps_.data()});
  bias_.assign(num_rows_, 0.0F);
  const float* mean_key = call.kv.mean_key(call.params.layer, tile.kv_head);
  for (size_t r = 0; r < num_rows_ && mean_key != nullptr; ++r) {
    for (size_t i = 0; i < static_cast<size_t>(head_dim); ++i) {
      bias_[r] += q_[r * dim + i] * mean_key[i];
    }
  }
  LoadBiasProducts(call);
}

// Computes each row's conj(q) b. q goes back to the basis of keys before their rotation (inverse
// Hadamard).
void QueryTile::LoadBiasProducts(const AttentionCall& call) {
  const KeyBiasView& bias = call.kv.key_bias;
  const int head_dim = call.kv.layout.head_dim;
  bias_products_.clear();
  if (!bias.has(call.params.layer)) {
    return;
  }
  const auto num_pairs = static_cast<size_t>(bias.num_pairs);
  const float* real = call.kv.key_bias_of(call.params.layer, tile_.kv_head);
  const float* imaginary = real + num_pairs;
  bias_products_.resize(num_rows_ * 2 * num_pairs);
  for (size_t r = 0; r < num_rows_; ++r) {
    const float* row = q_.data() + r * static_cast<size_t>(call.padded_dim());
    key_query_.assign(row, row + head_dim);
    call.isa.rotate_vector(key_query_.data(), bias.signs, head_dim, true);
    float* products = bias_products_.data() + r * 2 * num_pairs;
    for (size_t i = 0; i < num_pairs; ++i) {
      const float a = key_query_[static_cast<size_t>(bias.elements[i])];
      const float b = key_query_[static_cast<size_t>(bias.elements[num_pairs + i])];
      products[i] = a * real[i] + b * imaginary[i];
      products[num_pairs + i] = a * imaginary[i] - b * real[i];
    }
  }
}

void QueryTile::Attend(const AttentionCall& call, int page_index, const TilePage& next,
                       bool notes_energy, PageScratch& scratch, SoftmaxStates& state) const {
  scratch.page_max.assign(num_rows_, -INFINITY);
  scratch.page_sum.assign(num_rows_, 0.0F);
  const BatchView& batch = call.batch;
  const PageId page = batch.page_ids[batch.page_starts[tile_.sequence] + page_index];
  const Codec codec = call.kv.format(call.params.layer, call.kv.page_map[page].tier()).codec;
  CountVisible(call, codec, page_index, scratch.num_valid);
  const std::byte* next_block = BlockOf(call, next, codec);
  if (codec == Codec::kNative) {
    AttendNative(call, page, page_index, next_block, scratch, state);
  } else {
    AttendCoded(call, codec, page, page_index, next_block, scratch, state);
  }
  for (size_t r = 0; r < num_rows_ && notes_energy; ++r) {
    state.log_energy.push_back(
        LogEnergyOfPage(state.max[r], scratch.page_sum[r], scratch.page_max[r]));
  }
}

void QueryTile::CountVisible(const AttentionCall& call, Codec codec, int page_index,
                             std::vector<int32_t>& num_valid) const {
  const int page_tokens = call.kv.layout.page_tokens;
  const int group = call.group();
  num_valid.clear();
  for (int t = 0; t < tile_.num_tokens; ++t) {
    const int seen = call.batch.positions[tile_.first_token + t] + 1 - page_index * page_tokens;
    int visible = std::clamp(seen, 0, page_tokens);
    if (IsMerged(codec)) {
      CHECK(visible == page_tokens);  // its rows have no positions: it lies before every query
      visible = BlockRows(codec, call.kv.layout);
    }
    num_valid.insert(num_valid.end(), static_cast<size_t>(group), visible);
  }
}

void QueryTile::AttendNative(const AttentionCall& call, PageId page, int page_index,
                             const std::byte* next, PageScratch& scratch,
                             SoftmaxStates& state) const {
  const KvLayout& layout = call.kv.layout;
  const int last = call.batch.positions[tile_.first_token + tile_.num_tokens - 1];
  const std::byte* block = call.kv.block(page, call.params.layer, tile_.kv_head);
  call.isa.attend_page(
      {.k = reinterpret_cast<const uint16_t*>(block),
       .v = reinterpret_cast<const uint16_t*>(block + NativeVOffset(layout)),
       .next = reinterpret_cast<const uint16_t*>(next),
       .head_dim = layout.head_dim,
       .page_tokens = layout.page_tokens,
       .num_written = std::min(layout.page_tokens, last + 1 - page_index * layout.page_tokens),
       .rows = Rows(call, scratch, state),
       .buffers = Buffers(call, scratch.buffers)});
}

void QueryTile::AttendCoded(const AttentionCall& call, Codec codec, PageId page, int page_index,
                            const std::byte* next, PageScratch& scratch,
                            SoftmaxStates& state) const {
  const KvLayout& layout = call.kv.layout;
  const std::byte* block = call.kv.block(page, call.params.layer, tile_.kv_head);
  const BlockLayout at = BlockLayoutOf(codec, layout);
  const auto* bytes = reinterpret_cast<const uint8_t*>(block);
  const auto halves = [&](uint32_t offset) {
    return static_cast<const uint16_t*>(static_cast<const void*>(block + offset));
  };
  const int k_bits = KeyBits(codec);
  const int v_bits = ValueBits(codec);
  call.isa.attend_coded_page({.k_codes = bytes,
                              .v_codes = bytes + at.v_codes,
                              .k_scales = halves(at.k_scales),
                              .v_scales = halves(at.v_scales),
                              .log_weights = IsMerged(codec) ? halves(at.log_weights) : nullptr,
                              .k_book = &CodebookFor(layout.head_dim, k_bits),
                              .v_book = &CodebookFor(layout.head_dim, v_bits),
                              .k_bits = k_bits,
                              .v_bits = v_bits,
                              .page_tokens = BlockRows(codec, layout),
                              .num_values = (layout.head_dim + 15) / 16,
                              .ahead = next == nullptr ? 0 : next - block,
                              .rows = Rows(call, scratch, state),
                              .bias = bias_.data(),
                              .key_bias = BiasOfPage(call, page_index),
                              .buffers = Buffers(call, scratch.buffers)});
}

QueryRows QueryTile::Rows(const AttentionCall& call, PageScratch& scratch,
                          SoftmaxStates& state) const {
  return {.q = q_.data(),
          .num_valid = scratch.num_valid.data(),
          .num_rows = static_cast<int32_t>(num_rows_),
          .dim = call.padded_dim(),
          .max = state.max.data(),
          .sum = state.sum.data(),
          .o = state.o.data(),
          .q_words = q_words_.data(),
          .q_steps = q_steps_.data(),
          .page_max = scratch.page_max.data(),
          .page_sum = scratch.page_sum.data()};
}

BiasScores QueryTile::BiasOfPage(const AttentionCall& call, int page_index) const {
  const KeyBiasView& bias = call.kv.key_bias;
  if (bias_products_.empty()) {
    return {};
  }
  CHECK(page_index < bias.num_pages);
  return {.products = bias_products_.data(),
          .page_angles = bias.page_angles + int64_t{page_index} * 2 * bias.num_pairs,
          .token_angles = bias.token_angles,
          .num_pairs = bias.num_pairs};
}

}  // namespace thermocline
