#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/status.h"
#include "kernels/core/codebook.h"
#include "kernels/core/key_distances.h"
#include "kernels/core/key_rounding.h"
#include "kernels/page_format.h"

// The bytes of one layer and KV head of a page, its block, in each codec. docs/page_format.md draws
// them. A block of a coded page has K codes, K scales, V codes, V scales; codes are panels
// (kernels/core/panel_codes.h), scales are one IEEE half per row. Vectors are in the rotated
// basis; K is coded without its head's mean key and the rotated bias of its projection.
//
// A row is a token, but in a merged block the mean K and mean V of some: a score with it stands for
// all of them, to which the logarithm of their number is added, the block's log weight of the row.
// So the tokens of a merged block have no positions of their own, and there is no way back.

namespace thermocline {

// Bits of one code, 16 for kNative.
int KeyBits(Codec codec);
int ValueBits(Codec codec);

// Whether pages of this shape can be merged: those of kClusteredTokens.
bool CanMerge(const KvLayout& layout);

// Rows of a block: page_tokens, or kNumClusters of a merged one, which must be possible.
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

// How vectors become codes and back: ReferenceQuantizer() or an instruction set's, which give the
// same bits. turbo and int8 return the scale, NaN when x is not finite. x, codes [dim].
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

// k, v [page_tokens, head_dim] -> block. `query_factors` [head_dim, head_dim] of
// kernels/quant/query_factors.h, or null: what keys of 3 and 4 bits are rounded for, and by whose
// eyes keys are alike that a merged block gives one row. kDataLoss when a value is not finite; the
// block is then undefined.
Status EncodeBlock(Codec codec, const KvLayout& layout, const VectorQuantizer& quantizer,
                   const float* k, const float* v, std::byte* block,
                   const float* query_factors = nullptr);

// The way back: what every reader of pages has to see. k, v [BlockRows, head_dim].
void DecodeBlock(Codec codec, const KvLayout& layout, const std::byte* block, float* k, float* v);

// What is added to the scores of a block's rows, [BlockRows]: 0 unless the block is merged.
void DecodeLogWeights(Codec codec, const KvLayout& layout, const std::byte* block,
                      float* log_weights);

// A whole page of a move: decodes, takes bias and mean key off what has them or puts them back, and
// encodes; equal codecs are copied, and a merged one has no other way to go. A coded source that
// does not have its checksum any more is kCorrupt. The checksum is XXH3 of the XXH3 of each (layer,
// KV head) block, so that blocks can be done apart.
MoveResult TranscodePage(const PageMove& move, const KvCacheView& kv,
                         const VectorQuantizer& quantizer);

}  // namespace thermocline
