#include "kernels/quant/page_codec.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/core/half.h"
#include "kernels/core/quantize.h"
#include "kernels/quant/key_bias.h"
#include "kernels/quant/panel_packing.h"
#include "kernels/quant/token_clusters.h"

namespace thermocline {
namespace {

constexpr size_t kMaxPageTokens = 64;
constexpr uint32_t kBlockAlignment = 64;

// Scratch memory for transcoding one page, reused for all its blocks.
struct Scratch {
  std::vector<float> k;  // [page_tokens, head_dim]
  std::vector<float> v;
  std::vector<uint8_t> codes;   // a CodeMatrix
  std::vector<float> rounding;  // KeyRounding's
  // For a merged block:
  std::vector<float> keys;       // KeyDistances'
  std::vector<float> distances;  // [page_tokens, page_tokens]
  std::vector<float> k_rows;     // [kNumClusters, head_dim]
  std::vector<float> v_rows;
};

CodeMatrix CodesOf(const KvLayout& layout) { return {layout.page_tokens, layout.head_dim}; }

// The shape of pages whose tokens are the rows of this codec's blocks.
KvLayout RowLayout(Codec codec, const KvLayout& layout) {
  KvLayout rows = layout;
  rows.page_tokens = BlockRows(codec, layout);
  return rows;
}

uint16_t* Halves(std::byte* bytes) { return reinterpret_cast<uint16_t*>(bytes); }
const uint16_t* Halves(const std::byte* bytes) { return reinterpret_cast<const uint16_t*>(bytes); }

// x [page_tokens, head_dim] -> codes, rows of a CodeMatrix, and the scales. `factors`: query
// factors that keys of few bits are rounded with, or null.
void QuantizeVectors(int bits, const KvLayout& layout, const VectorQuantizer& quantizer,
                     const float* x, const float* factors, Scratch& scratch,
                     std::span<float> scales) {
  const CodeMatrix matrix = CodesOf(layout);
  const Codebook& book = CodebookFor(layout.head_dim, bits);
  scratch.codes.assign(static_cast<size_t>(matrix.bytes()), 0);
  if (factors != nullptr && bits != 8) {
    scratch.rounding.resize(size_t{2} * static_cast<size_t>(layout.page_tokens * layout.head_dim));
    quantizer.keys({.x = x,
                    .factors = factors,
                    .book = &book,
                    .num_tokens = layout.page_tokens,
                    .dim = layout.head_dim,
                    .stride = matrix.stride(),
                    .codes = scratch.codes.data(),
                    .scales = scales.data(),
                    .scratch = scratch.rounding.data()});
    return;
  }
  for (int i = 0; i < layout.page_tokens; ++i) {
    const float* vector = x + int64_t{i} * layout.head_dim;
    uint8_t* out = scratch.codes.data() + int64_t{i} * matrix.stride();
    scales[static_cast<size_t>(i)] = bits == 8
                                         ? quantizer.int8(vector, layout.head_dim, out)
                                         : quantizer.turbo(vector, layout.head_dim, book, out);
  }
}

// x [page_tokens, head_dim] -> panels and scales.
Status EncodeVectors(int bits, PanelLane lane, const KvLayout& layout,
                     const VectorQuantizer& quantizer, const float* x, const float* factors,
                     Scratch& scratch, std::byte* panels, std::byte* scales) {
  std::array<float, kMaxPageTokens> floats{};
  QuantizeVectors(bits, layout, quantizer, x, factors, scratch, floats);
  for (int i = 0; i < layout.page_tokens; ++i) {
    const float scale = floats[static_cast<size_t>(i)];
    if (!std::isfinite(scale)) {
      return {StatusCode::kDataLoss, fmt::format("position {} of the page is not finite", i)};
    }
    Halves(scales)[i] = ScaleToHalf(scale);
  }
  PackPanels(CodesOf(layout), bits, lane, scratch.codes.data(), reinterpret_cast<uint8_t*>(panels));
  return {};
}

void DecodeVectors(int bits, PanelLane lane, const KvLayout& layout,
                   const VectorQuantizer& quantizer, const std::byte* panels,
                   const std::byte* scales, std::vector<uint8_t>& codes, float* x) {
  const CodeMatrix matrix = CodesOf(layout);
  const Codebook& book = CodebookFor(layout.head_dim, bits);
  codes.resize(static_cast<size_t>(matrix.bytes()));
  UnpackPanels(matrix, bits, lane, reinterpret_cast<const uint8_t*>(panels), codes.data());
  for (int i = 0; i < layout.page_tokens; ++i, x += layout.head_dim) {
    const uint8_t* in = codes.data() + int64_t{i} * matrix.stride();
    const float scale = HalfToFloat(Halves(scales)[i]);
    bits == 8 ? quantizer.decode_int8(in, layout.head_dim, scale, x)
              : quantizer.decode_turbo(in, layout.head_dim, book, scale, x);
  }
}

// x [page_tokens, dim] -> the mean of each row's tokens, [kNumClusters, dim].
void AverageRows(const TokenClusters& clusters, const float* x, size_t dim,
                 std::vector<float>& rows) {
  rows.assign(kNumClusters * dim, 0.0F);
  for (const uint8_t row : clusters.row_of) {
    for (size_t i = 0; i < dim; ++i) {
      rows[row * dim + i] += x[i];
    }
    x += dim;
  }
  for (size_t row = 0; row < kNumClusters; ++row) {
    const float part = 1.0F / static_cast<float>(clusters.sizes[row]);
    for (size_t i = 0; i < dim; ++i) {
      rows[row * dim + i] *= part;
    }
  }
}

// k, v [page_tokens, head_dim] -> scratch.k_rows, scratch.v_rows, and the log weights of the rows.
void MergeTokens(const KvLayout& layout, const VectorQuantizer& quantizer, const float* k,
                 const float* v, const float* query_factors, Scratch& scratch,
                 std::byte* log_weights) {
  const auto dim = static_cast<size_t>(layout.head_dim);
  scratch.keys.resize(kClusteredTokens * dim);
  scratch.distances.resize(size_t{kClusteredTokens} * kClusteredTokens);
  quantizer.distances({.x = k,
                       .factors = query_factors,
                       .num_tokens = layout.page_tokens,
                       .dim = layout.head_dim,
                       .scratch = scratch.keys.data(),
                       .distances = scratch.distances.data()});
  const TokenClusters clusters = ClusterTokens(scratch.distances);
  AverageRows(clusters, k, dim, scratch.k_rows);
  AverageRows(clusters, v, dim, scratch.v_rows);
  for (size_t row = 0; row < kNumClusters; ++row) {
    // For normal queries and keys of this spread, the mean of exp(score) is exp(score of the mean
    // key) times exp(spread / 2).
    const float spread = query_factors == nullptr ? 0.0F : clusters.spreads[row];
    Halves(log_weights)[row] =
        ScaleToHalf(std::log(static_cast<float>(clusters.sizes[row])) + 0.5F * spread);
  }
}

Status Encode(Codec codec, const KvLayout& layout, const VectorQuantizer& quantizer, const float* k,
              const float* v, const float* query_factors, Scratch& scratch, std::byte* block) {
  const BlockLayout at = BlockLayoutOf(codec, layout);
  const KvLayout rows = RowLayout(codec, layout);
  if (codec == Codec::kNative) {
    const int64_t count = int64_t{layout.page_tokens} * layout.head_dim;
    quantizer.float_to_half(k, count, Halves(block));
    quantizer.float_to_half(v, count, Halves(block + at.v_codes));
    return {};
  }
  if (IsMerged(codec)) {
    MergeTokens(layout, quantizer, k, v, query_factors, scratch, block + at.log_weights);
    k = scratch.k_rows.data();
    v = scratch.v_rows.data();
    const size_t end = at.log_weights + sizeof(uint16_t) * kNumClusters;
    std::fill(block + end, block + at.bytes, std::byte{0});
  }
  RETURN_IF_ERROR(EncodeVectors(KeyBits(codec), PanelLane::kToken, rows, quantizer, k,
                                query_factors, scratch, block, block + at.k_scales));
  return EncodeVectors(ValueBits(codec), PanelLane::kDimension, rows, quantizer, v, nullptr,
                       scratch, block + at.v_codes, block + at.v_scales);
}

void Decode(Codec codec, const KvLayout& layout, const VectorQuantizer& quantizer,
            const std::byte* block, std::vector<uint8_t>& codes, float* k, float* v) {
  const BlockLayout at = BlockLayoutOf(codec, layout);
  if (codec == Codec::kNative) {
    const int64_t count = int64_t{layout.page_tokens} * layout.head_dim;
    quantizer.half_to_float(Halves(block), count, k);
    quantizer.half_to_float(Halves(block + at.v_codes), count, v);
    return;
  }
  const KvLayout rows = RowLayout(codec, layout);
  DecodeVectors(KeyBits(codec), PanelLane::kToken, rows, quantizer, block, block + at.k_scales,
                codes, k);
  DecodeVectors(ValueBits(codec), PanelLane::kDimension, rows, quantizer, block + at.v_codes,
                block + at.v_scales, codes, v);
}

// k [page_tokens, dim] += sign * mean_key
void AddMeanKey(const float* mean_key, size_t dim, float sign, std::vector<float>& k) {
  for (size_t first = 0; first < k.size() && mean_key != nullptr; first += dim) {
    for (size_t i = 0; i < dim; ++i) {
      k[first + i] += sign * mean_key[i];
    }
  }
}

// One layer and KV head of a move between codecs.
Status TranscodeBlock(const PageMove& move, const KvCacheView& kv, int layer, int kv_head,
                      const VectorQuantizer& quantizer, Scratch& scratch) {
  const KvLayout& layout = kv.layout;
  const Codec from = kv.format(layer, move.from.tier()).codec;
  const Codec to = kv.format(layer, move.to.tier()).codec;
  CHECK(!IsMerged(from) && !(IsMerged(to) && kv.key_bias.has(layer)));
  const auto dim = static_cast<size_t>(layout.head_dim);
  scratch.k.resize(static_cast<size_t>(layout.page_tokens) * dim);
  scratch.v.resize(scratch.k.size());
  Decode(from, layout, quantizer, kv.block_at(move.from, layer, kv_head), scratch.codes,
         scratch.k.data(), scratch.v.data());
  if (from == Codec::kNative || to == Codec::kNative) {
    const float sign = to == Codec::kNative ? 1.0F : -1.0F;
    AddKeyBias(kv, layer, kv_head, move.first_position, sign, scratch.k.data());
    AddMeanKey(kv.mean_key(layer, kv_head), dim, sign, scratch.k);
  }
  return Encode(to, layout, quantizer, scratch.k.data(), scratch.v.data(),
                kv.query_factors_of(layer, kv_head), scratch, kv.block_at(move.to, layer, kv_head));
}

uint64_t Checksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

}  // namespace

int KeyBits(Codec codec) {
  switch (codec) {
    case Codec::kNative:
      return 16;
    case Codec::kInt8:
      return 8;
    case Codec::kTurboK4V3:
      return 4;
    case Codec::kTurbo3:
    case Codec::kMergedK3V2:
      return 3;
    case Codec::kMerged2:
      break;
  }
  return 2;
}

int ValueBits(Codec codec) {
  if (IsMerged(codec)) {
    return 2;
  }
  return codec == Codec::kTurboK4V3 ? 3 : KeyBits(codec);
}

bool CanMerge(const KvLayout& layout) { return layout.page_tokens == kClusteredTokens; }

int BlockRows(Codec codec, const KvLayout& layout) {
  CHECK(!IsMerged(codec) || CanMerge(layout));
  return IsMerged(codec) ? kNumClusters : layout.page_tokens;
}

BlockLayout BlockLayoutOf(Codec codec, const KvLayout& layout) {
  if (codec == Codec::kNative) {
    const uint32_t v_offset = NativeVOffset(layout);
    const uint32_t bytes = NativeHeadBytes(layout);
    return {.k_scales = v_offset,
            .v_codes = v_offset,
            .v_scales = bytes,
            .log_weights = bytes,
            .bytes = bytes};
  }
  const KvLayout rows = RowLayout(codec, layout);
  const auto k_bytes =
      static_cast<uint32_t>(PanelsBytes(CodesOf(rows), KeyBits(codec), PanelLane::kToken));
  const auto v_bytes =
      static_cast<uint32_t>(PanelsBytes(CodesOf(rows), ValueBits(codec), PanelLane::kDimension));
  const uint32_t half_bytes = 2 * static_cast<uint32_t>(rows.page_tokens);
  if (IsMerged(codec)) {  // 48 halves fill no cache line: behind all codes
    const uint32_t k_scales = k_bytes + v_bytes;
    const uint32_t end = k_scales + 3 * half_bytes;
    return {.k_scales = k_scales,
            .v_codes = k_bytes,
            .v_scales = k_scales + half_bytes,
            .log_weights = k_scales + 2 * half_bytes,
            .bytes = (end + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment};
  }
  const uint32_t v_codes = k_bytes + half_bytes;
  const uint32_t v_scales = v_codes + v_bytes;
  return {.k_scales = k_bytes,
          .v_codes = v_codes,
          .v_scales = v_scales,
          .log_weights = v_scales + half_bytes,
          .bytes = v_scales + half_bytes};
}

VectorQuantizer ReferenceQuantizer() {
  return {
      .turbo = QuantizeTurbo,
      .int8 = QuantizeInt8,
      .keys = QuantizeKeys,
      .distances = MeasureKeyDistances,
      .decode_turbo = DequantizeTurbo,
      .decode_int8 = DequantizeInt8,
      .half_to_float = [](const uint16_t* src, int64_t count,
                          float* dst) { std::transform(src, src + count, dst, HalfToFloat); },
      .float_to_half = [](const float* src, int64_t count,
                          uint16_t* dst) { std::transform(src, src + count, dst, FloatToHalf); }};
}

Status EncodeBlock(Codec codec, const KvLayout& layout, const VectorQuantizer& quantizer,
                   const float* k, const float* v, std::byte* block, const float* query_factors) {
  Scratch scratch;
  return Encode(codec, layout, quantizer, k, v, query_factors, scratch, block);
}

void DecodeBlock(Codec codec, const KvLayout& layout, const std::byte* block, float* k, float* v) {
  std::vector<uint8_t> codes;
  Decode(codec, layout, ReferenceQuantizer(), block, codes, k, v);
}

void DecodeLogWeights(Codec codec, const KvLayout& layout, const std::byte* block,
                      float* log_weights) {
  const uint16_t* halves = Halves(block + BlockLayoutOf(codec, layout).log_weights);
  for (int row = 0; row < BlockRows(codec, layout); ++row) {
    log_weights[row] = IsMerged(codec) ? HalfToFloat(halves[row]) : 0.0F;
  }
}

namespace {

MoveResult TranscodeBlocks(const PageMove& move, const KvCacheView& kv,
                           const VectorQuantizer& quantizer) {
  MoveResult result;
  Scratch scratch;
  std::vector<uint64_t> source;
  std::vector<uint64_t> target;
  const bool checked = move.from.tier() != Tier::kHot;
  for (int layer = 0; layer < kv.layout.num_layers; ++layer) {
    const Codec from = kv.format(layer, move.from.tier()).codec;
    const Codec to = kv.format(layer, move.to.tier()).codec;
    const size_t from_bytes = BlockLayoutOf(from, kv.layout).bytes;
    const size_t to_bytes = BlockLayoutOf(to, kv.layout).bytes;
    for (int kv_head = 0; kv_head < kv.layout.num_kv_heads; ++kv_head) {
      const std::byte* in = kv.block_at(move.from, layer, kv_head);
      std::byte* out = kv.block_at(move.to, layer, kv_head);
      if (from == to) {
        std::memcpy(out, in, to_bytes);
      } else if (!TranscodeBlock(move, kv, layer, kv_head, quantizer, scratch).ok()) {
        result.outcome = MoveResult::Outcome::kNotFinite;
        return result;
      }
      target.push_back(Checksum(out, to_bytes));
      if (checked) {
        source.push_back(from == to ? target.back() : Checksum(in, from_bytes));
      }
    }
  }
  if (checked && Checksum(source.data(), source.size() * sizeof(uint64_t)) != move.checksum) {
    result.outcome = MoveResult::Outcome::kCorrupt;
  }
  result.checksum = Checksum(target.data(), target.size() * sizeof(uint64_t));
  return result;
}

}  // namespace

MoveResult TranscodePage(const PageMove& move, const KvCacheView& kv,
                         const VectorQuantizer& quantizer) {
  const auto begin = std::chrono::steady_clock::now();
  MoveResult result = TranscodeBlocks(move, kv, quantizer);
  result.seconds = std::chrono::duration<float>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace thermocline
