#include "kernels/quant/page_codec.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/core/half.h"
#include "kernels/core/panel_codes.h"
#include "kernels/core/quantize.h"

namespace thermocline {
namespace {

// A [num_outer, num_inner] matrix of codes as panels of 16 outer rows.
struct PanelMatrix {
  int bits = 0;
  int num_outer = 0;
  int num_inner = 0;

  int num_panels() const { return (num_outer + kPanelLanes - 1) / kPanelLanes; }
  int num_groups() const { return (num_inner + kGroupInner - 1) / kGroupInner; }
  int bytes() const { return num_panels() * PanelBytes(bits, num_inner); }
};

PanelMatrix Keys(Codec codec, const KvLayout& layout) {
  return {KeyBits(codec), layout.page_tokens, layout.head_dim};
}
PanelMatrix Values(Codec codec, const KvLayout& layout) {
  return {ValueBits(codec), layout.head_dim, layout.page_tokens};
}

// Code (outer, inner) is at codes[outer * outer_stride + inner * inner_stride].
void PackPanels(const PanelMatrix& matrix, const uint8_t* codes, int outer_stride, int inner_stride,
                uint8_t* out) {
  std::array<uint8_t, size_t{kGroupInner} * kPanelLanes> group{};
  for (int panel = 0; panel < matrix.num_panels(); ++panel) {
    for (int first = 0; first < matrix.num_groups() * kGroupInner; first += kGroupInner) {
      for (int i = 0; i < kGroupInner; ++i) {
        for (int lane = 0; lane < kPanelLanes; ++lane) {
          const int outer = panel * kPanelLanes + lane;
          const int inner = first + i;
          const bool exists = outer < matrix.num_outer && inner < matrix.num_inner;
          group[static_cast<size_t>(i * kPanelLanes + lane)] =
              exists ? codes[outer * outer_stride + inner * inner_stride] : uint8_t{0};
        }
      }
      PackGroup(matrix.bits, group.data(), out);
      out += GroupBytes(matrix.bits);
    }
  }
}

uint8_t CodeAt(const PanelMatrix& matrix, const uint8_t* packed, int outer, int inner) {
  const int panel = outer / kPanelLanes;
  const int group = panel * matrix.num_groups() + inner / kGroupInner;
  return UnpackCode(matrix.bits, packed + group * GroupBytes(matrix.bits), outer % kPanelLanes,
                    inner % kGroupInner);
}

// Codes [num_vectors, dim] and scales of x [num_vectors, dim].
Status Quantize(int bits, const VectorQuantizer& quantizer, const float* x, int num_vectors,
                int dim, std::vector<uint8_t>& codes, std::byte* scales) {
  codes.resize(static_cast<size_t>(num_vectors) * static_cast<size_t>(dim));
  for (int i = 0; i < num_vectors; ++i) {
    const float* vector = x + int64_t{i} * dim;
    uint8_t* out = codes.data() + int64_t{i} * dim;
    const float scale = bits == 8 ? quantizer.int8(vector, dim, out)
                                  : quantizer.turbo(vector, dim, CodebookFor(dim, bits), out);
    if (!std::isfinite(scale)) {
      return {StatusCode::kDataLoss, fmt::format("position {} of the page is not finite", i)};
    }
    const uint16_t half = ScaleToHalf(scale);
    std::memcpy(scales + sizeof(half) * static_cast<size_t>(i), &half, sizeof(half));
  }
  return {};
}

float Decoded(int bits, const Codebook& book, uint8_t code) {
  return bits == 8 ? static_cast<float>(static_cast<int8_t>(code)) : book.levels[code];
}

// With V's outer index the dimension and K's the token, `token_is_outer` says which is which.
void DecodePanels(const PanelMatrix& matrix, bool token_is_outer, const KvLayout& layout,
                  const std::byte* codes, const std::byte* scales, float* out) {
  const auto* packed = reinterpret_cast<const uint8_t*>(codes);
  const Codebook& book = CodebookFor(layout.head_dim, matrix.bits);
  for (int token = 0; token < layout.page_tokens; ++token) {
    uint16_t half = 0;
    std::memcpy(&half, scales + sizeof(half) * static_cast<size_t>(token), sizeof(half));
    const float scale = HalfToFloat(half);
    for (int i = 0; i < layout.head_dim; ++i) {
      const uint8_t code =
          token_is_outer ? CodeAt(matrix, packed, token, i) : CodeAt(matrix, packed, i, token);
      *out++ = scale * Decoded(matrix.bits, book, code);
    }
  }
}

void EncodeNative(const float* x, int64_t count, std::byte* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = FloatToHalf(x[i]);
    std::memcpy(out + 2 * i, &half, sizeof(half));
  }
}

void DecodeNative(const std::byte* in, int64_t count, float* x) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half = 0;
    std::memcpy(&half, in + 2 * i, sizeof(half));
    x[i] = HalfToFloat(half);
  }
}

// One layer and KV head of a move.
Status TranscodeBlock(const PageMove& move, const KvCacheView& kv, int layer, int kv_head,
                      const VectorQuantizer& quantizer) {
  const KvLayout& layout = kv.layout;
  const Codec from = kv.format(layer, move.from.tier()).codec;
  const Codec to = kv.format(layer, move.to.tier()).codec;
  const std::byte* source = kv.block_at(move.from, layer, kv_head);
  std::byte* target = kv.block_at(move.to, layer, kv_head);
  if (from == to) {
    std::memcpy(target, source, BlockLayoutOf(to, layout).bytes);
    return {};
  }
  const auto dim = static_cast<size_t>(layout.head_dim);
  std::vector<float> k(static_cast<size_t>(layout.page_tokens) * dim);
  std::vector<float> v(k.size());
  DecodeBlock(from, layout, source, k.data(), v.data());
  const float* mean_key = kv.mean_key(layer, kv_head);
  const bool was_native = from == Codec::kNative;
  const bool is_native = to == Codec::kNative;
  if (mean_key != nullptr && was_native != is_native) {
    for (size_t i = 0; i < k.size(); ++i) {
      k[i] += is_native ? mean_key[i % dim] : -mean_key[i % dim];
    }
  }
  return EncodeBlock(to, layout, quantizer, k.data(), v.data(), target);
}

uint64_t Checksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

}  // namespace

int KeyBits(Codec codec) {
  switch (codec) {
    case Codec::kNative:
      return 16;
    case Codec::kInt8:
      return 8;
    case Codec::kTurbo3:
      return 3;
    case Codec::kTurboK4V3:
      return 4;
    case Codec::kTurboK8V3:
      return 8;
    case Codec::kSparse:
      break;
  }
  CHECK(false);  // has no one width
  return 0;
}

int ValueBits(Codec codec) {
  return codec == Codec::kTurboK4V3 || codec == Codec::kTurboK8V3 ? 3 : KeyBits(codec);
}

BlockLayout BlockLayoutOf(Codec codec, const KvLayout& layout) {
  if (codec == Codec::kNative) {
    const uint32_t v_offset = NativeVOffset(layout);
    const uint32_t bytes = NativeHeadBytes(layout);
    return {.k_scales = v_offset, .v_codes = v_offset, .v_scales = bytes, .bytes = bytes};
  }
  const uint32_t scale_bytes = 2 * static_cast<uint32_t>(layout.page_tokens);
  BlockLayout block;
  block.k_scales = static_cast<uint32_t>(Keys(codec, layout).bytes());
  block.v_codes = block.k_scales + scale_bytes;
  block.v_scales = block.v_codes + static_cast<uint32_t>(Values(codec, layout).bytes());
  block.bytes = block.v_scales + scale_bytes;
  return block;
}

VectorQuantizer ReferenceQuantizer() { return {.turbo = QuantizeTurbo, .int8 = QuantizeInt8}; }

Status EncodeBlock(Codec codec, const KvLayout& layout, const VectorQuantizer& quantizer,
                   const float* k, const float* v, std::byte* block) {
  const BlockLayout at = BlockLayoutOf(codec, layout);
  const int dim = layout.head_dim;
  if (codec == Codec::kNative) {
    const int64_t count = int64_t{layout.page_tokens} * dim;
    EncodeNative(k, count, block);
    EncodeNative(v, count, block + at.v_codes);
    return {};
  }
  std::vector<uint8_t> codes;
  RETURN_IF_ERROR(
      Quantize(KeyBits(codec), quantizer, k, layout.page_tokens, dim, codes, block + at.k_scales));
  PackPanels(Keys(codec, layout), codes.data(), dim, 1, reinterpret_cast<uint8_t*>(block));
  RETURN_IF_ERROR(Quantize(ValueBits(codec), quantizer, v, layout.page_tokens, dim, codes,
                           block + at.v_scales));
  PackPanels(Values(codec, layout), codes.data(), 1, dim,
             reinterpret_cast<uint8_t*>(block + at.v_codes));
  return {};
}

void DecodeBlock(Codec codec, const KvLayout& layout, const std::byte* block, float* k, float* v) {
  const BlockLayout at = BlockLayoutOf(codec, layout);
  if (codec == Codec::kNative) {
    const int64_t count = int64_t{layout.page_tokens} * layout.head_dim;
    DecodeNative(block, count, k);
    DecodeNative(block + at.v_codes, count, v);
    return;
  }
  DecodePanels(Keys(codec, layout), true, layout, block, block + at.k_scales, k);
  DecodePanels(Values(codec, layout), false, layout, block + at.v_codes, block + at.v_scales, v);
}

MoveResult TranscodePage(const PageMove& move, const KvCacheView& kv,
                         const VectorQuantizer& quantizer) {
  MoveResult result;
  std::vector<uint64_t> source;
  std::vector<uint64_t> target;
  const auto checksum = [&](PageEntry entry, int layer, int kv_head) {
    const Codec codec = kv.format(layer, entry.tier()).codec;
    return Checksum(kv.block_at(entry, layer, kv_head), BlockLayoutOf(codec, kv.layout).bytes);
  };
  for (int layer = 0; layer < kv.layout.num_layers; ++layer) {
    for (int kv_head = 0; kv_head < kv.layout.num_kv_heads; ++kv_head) {
      if (!TranscodeBlock(move, kv, layer, kv_head, quantizer).ok()) {
        result.outcome = MoveResult::Outcome::kNotFinite;
      }
      source.push_back(checksum(move.from, layer, kv_head));
      target.push_back(checksum(move.to, layer, kv_head));
    }
  }
  if (move.from.tier() != Tier::kHot &&
      Checksum(source.data(), source.size() * sizeof(uint64_t)) != move.checksum) {
    result.outcome = MoveResult::Outcome::kCorrupt;
  }
  result.checksum = Checksum(target.data(), target.size() * sizeof(uint64_t));
  return result;
}

}  // namespace thermocline
