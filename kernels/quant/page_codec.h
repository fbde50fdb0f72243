#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/status.h"
#include "kernels/core/codebook.h"
#include "kernels/core/key_distances.h"
#include "kernels/core/key_rounding.h"
#include "kernels/page_format.h"

// Encodes and decodes blocks: the bytes of one layer and KV head of a page. docs/page_format.md
// draws them. A block of a coded page has K codes, K scales, V codes, V scales. Codes are panels
// (kernels/core/panel_codes.h); scales are one IEEE half per row. Vectors are in the rotated basis.
// K is coded without its head's mean key and without the rotated bias of its projection.
//
// A row is one token. In a merged block it is the mean K and mean V of some tokens; a score with
// the row stands for all of them, and the row's log weight is added to it. The tokens of a merged
// block have no positions of their own, and it cannot be decoded into tokens again.

namespace thermocline {

// Bits of one code, 16 for kNative.
int KeyBits(Codec codec);
int ValueBits(Codec codec);

// Whether pages of this shape can be merged: only pages of kClusteredTokens tokens can.
bool CanMerge(const KvLayout& layout);

// Rows of a block: page_tokens, or kNumClusters if it is merged, which CanMerge must allow.
int BlockRows(Codec codec, const KvLayout& layout);

// Where the parts of a block begin, and its size: a multiple of 64 for pages of 64 tokens. Native
// blocks have no scales: k_scales == v_codes, v_scales == bytes. Log weights are halves, one for
// each row of a merged block; others have none: log_weights == bytes.
struct BlockLayout {
  uint32_t k_scales = 0;
  uint32_t v_codes = 0;
  uint32_t v_scales = 0;
  uint32_t log_weights = 0;
  uint32_t bytes = 0;
};
BlockLayout BlockLayoutOf(Codec codec, const KvLayout& layout);

// The functions that quantise and dequantise vectors: ReferenceQuantizer() or an instruction set's.
// All give the same bits. turbo and int8 return the scale, NaN when x is not finite. x, codes
// [dim].
struct VectorQuantizer {
  float (*turbo)(const float* x, int32_t dim, const Codebook& book, uint8_t* codes) = nullptr;
  float (*int8)(const float* x, int32_t dim, uint8_t* codes) = nullptr;
  void (*keys)(const KeyRounding& keys) = nullptr;
  void (*distances)(const KeyDistances& keys) = nullptr;
  void (*decode_turbo)(const uint8_t* codes, int32_t dim, const Codebook& book, float scale,
                       float* x) = nullptr;
  void (*decode_int8)(const uint8_t* codes, int32_t dim, float scale, float* x) = nullptr;
  void (*half_to_float)(const uint16_t* src, int64_t count, float* dst) = nullptr;
  void (*float_to_half)(const float* src, int64_t count, uint16_t* dst) = nullptr;
};
VectorQuantizer ReferenceQuantizer();

// Encodes k, v [page_tokens, head_dim]. `query_factors` [head_dim, head_dim]
// (kernels/quant/query_factors.h), or null: keys of 3 and 4 bits are rounded for these queries, and
// a merged block gives one row to keys that these queries hardly tell apart. kDataLoss when a value
// is not finite; the block is then undefined.
Status EncodeBlock(Codec codec, const KvLayout& layout, const VectorQuantizer& quantizer,
                   const float* k, const float* v, std::byte* block,
                   const float* query_factors = nullptr);

// Decodes a block into k, v [BlockRows, head_dim]: the values that every reader of pages has to
// see.
void DecodeBlock(Codec codec, const KvLayout& layout, const std::byte* block, float* k, float* v);

// The log weights of a block's rows [BlockRows], added to their scores: 0 unless it is merged.
void DecodeLogWeights(Codec codec, const KvLayout& layout, const std::byte* block,
                      float* log_weights);

// Copies a whole page from a move's old slot to its new one. It decodes, removes or adds back K's
// bias and mean key, and encodes. Where both codecs are equal it copies; a merged block can only be
// copied. kCorrupt: a coded source does not have the move's checksum any more. A page's checksum is
// XXH3 of the XXH3 of each block, so that blocks can be done apart.
MoveResult TranscodePage(const PageMove& move, const KvCacheView& kv,
                         const VectorQuantizer& quantizer);

}  // namespace thermocline
