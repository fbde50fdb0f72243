#pragma once

#include <cstdint>

#include "kernels/core/codebook.h"
#include "kernels/core/key_distances.h"
#include "kernels/core/key_rounding.h"
#include "kernels/core/limits.h"
#include "kernels/core/softmax_state.h"
#include "kernels/cpu/isa/panel_kind.h"

// The functions that exist once per instruction set. Each set is one object file, built from the
// same .inl files with its own compiler flags; a CpuOps picks one table when it is made.
//
// Those files use fixed-width types, intrinsics and the plain structs below, and nothing else: an
// inline function of the standard library compiled for AVX-512 could be the copy that the linker
// keeps for every CPU. A test looks for such symbols.

namespace thermocline {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlockColumns = 32;
inline constexpr int kBlockCodes = 2 * kBlockColumns;  // bytes: high, then low
// Quantised activations lie in groups of tokens, block by block: [group][block][token]. So the
// operands of several tokens are one or two streams, whatever the length of a row.
inline constexpr int kGroupTokens = 4;
inline constexpr int kTileTokens = 16;  // the group's tokens where AMX multiplies tiles

// One block of 32 activations, quantised to 15 bits: x = scale * q, q = 128 high + low, high in
// -127..127 and low in -64..63. Both are int8, so that a product with a weight is two integer dot
// products of bytes. docs/design/kernels.md says what 8 bits alone lose.
struct ActivationBlock {
  float scale;
  float scaled_sum;  // scale * sum of all q: what a weight's minimum is multiplied with
  int32_t sum_low;   // sum of the first 16 q; with a weight's zero point it starts the integer sum
  int32_t sum_high;  // sum of the last 16 q
};

// The arguments of a product: x times some panels, for `num_tokens` rows of x.
struct PanelProduct {
  const uint8_t* panels;
  int64_t panel_bytes;
  int64_t num_panels;
  int64_t num_columns;  // a multiple of 32, unless the panels are of floats
  int64_t num_tokens;
  int64_t group_tokens;           // kGroupTokens or, where IsaTable has tiles, kTileTokens
  const int8_t* codes;            // [groups, num_columns / 32, group_tokens, 2, 32]: high, then low
  const ActivationBlock* blocks;  // [groups, num_columns / 32, group_tokens]
  const float* x;                 // [num_tokens, num_columns], for float panels
  uint8_t* room;                  // num_columns * 16 bytes, where IsaTable has tiles
  float* y;                       // column 0 of the first panel's first row
  int64_t y_stride;               // from token to token
  int64_t num_rows;               // rows that exist, of 16 in each panel
  bool add;                       // to y, instead of overwriting it
};

// Query rows of one KV head and the state of their online softmax. Rows of q and o are `dim`
// floats, a multiple of 32, zero-padded.
struct QueryRows {
  const float* q;            // [num_rows, dim], scaled
  const int32_t* num_valid;  // [num_rows]: leading positions of the page that a row sees, or 0
  int32_t num_rows;
  int32_t dim;
  float* max;               // [num_rows] largest score,
  float* sum;               // [num_rows] sum of exp(score - max),
  float* o;                 // [num_rows, dim] and the values weighted by the same
  const uint32_t* q_words;  // [num_rows, dim / 2] and [num_rows]: what narrow_queries makes of q,
  const float* q_steps;     // for instruction sets that have it
  float* page_max;  // [num_rows] of this page alone; rows that see none of it are left alone
  float* page_sum;  // [num_rows] of this page alone, with the state's new max
};

// Queries to be rounded to int16, once for all pages.
struct QueryWords {
  const float* q;  // QueryRows::q
  int32_t num_rows;
  int32_t dim;
  uint32_t* words;  // [num_rows, dim / 2]
  float* steps;     // [num_rows]: the scale of a row's int16
};

// Buffers for a page's dequantised K and V, whole cache lines. As floats: `k` [dim][page_tokens]
// and `v` [page_tokens][dim]. As pairs of int16: `k` [dim / 2][page_tokens], pairs of dimensions,
// and `v` [page_tokens / 2][dim], pairs of positions.
struct PageBuffers {
  float* k;
  float* v;
};

// The arguments of attention to one page in halves.
struct PageAttention {
  const uint16_t* k;     // [page_tokens, head_dim]
  const uint16_t* v;     // [page_tokens, head_dim]
  const uint16_t* next;  // the block that is read after this one, k and v, or null
  int32_t head_dim;
  int32_t page_tokens;  // 32 or 64
  int32_t num_written;  // leading positions that hold something
  QueryRows rows;
  PageBuffers buffers;
};

// The terms that a K bias adds to the scores of a coded page. For row r and token t:
//   sum over pairs of Re(products[r] * page_angles) cos - Im(products[r] * page_angles) sin
struct BiasScores {
  const float* products = nullptr;      // [num_rows][2][num_pairs]: conj(q) b; null: there is none
  const float* page_angles = nullptr;   // [2][num_pairs]: cos, sin at the page's first token
  const float* token_angles = nullptr;  // [2][num_pairs][page_tokens]: cos, -sin inside the page
  int32_t num_pairs = 0;
};

// The arguments of attention to one page in codes (docs/page_format.md). Its K was coded less the
// head's mean key, so a row's score with every key lacks `bias`, and less the K projection's bias,
// which `key_bias` adds back. A merged page counts its rows as tokens: a query sees all of them or
// none. It has no key bias.
struct CodedPageAttention {
  const uint8_t* k_codes;
  const uint8_t* v_codes;
  const uint16_t* k_scales;  // [page_tokens] halves
  const uint16_t* v_scales;
  const uint16_t* log_weights;  // [page_tokens] halves, added to the scores; or null
  const Codebook* k_book;       // for codes of 2, 3 and 4 bits
  const Codebook* v_book;
  int32_t k_bits;        // 2, 3, 4 or 8
  int32_t v_bits;        // 2, 3 or 8
  int32_t page_tokens;   // a multiple of 16, at most 64
  int32_t num_values;    // panels of V: dimensions / 16
  std::ptrdiff_t ahead;  // from here to the block that is read next, in bytes; 0: none
  QueryRows rows;
  const float* bias;  // [num_rows]
  BiasScores key_bias;
  PageBuffers buffers;
};

// Heads of one token, `head_dim` floats each, whose pairs rotate by the angles of its position.
struct RopeHeads {
  float* heads;  // [num_heads, head_dim]
  int32_t num_heads;
  int32_t head_dim;
  const float* angles;  // [num_pairs, 2]: cos, sin
  int32_t num_pairs;
  bool interleaved;  // pairs (2i, 2i + 1); else (i, i + num_pairs)
};

struct IsaTable {
  bool has_tiles;  // several tokens are multiplied faster in groups of kTileTokens
  // x [num_columns], a multiple of 32, is one token; codes and blocks start at its first block.
  void (*quantize_row)(const float* x, int64_t num_columns, int64_t group_tokens, int8_t* codes,
                       ActivationBlock* blocks);
  void (*panel_product[kNumPanelKinds])(const PanelProduct& product);
  void (*rms_norm)(const float* x, const float* gain, float epsilon, int64_t dim, float* y);
  void (*gated_silu)(const float* gate, const float* up, int64_t dim, float* out);
  void (*gated_gelu)(const float* gate, const float* up, int64_t dim, float* out);
  void (*half_to_float)(const uint16_t* src, int64_t count, float* dst);
  void (*float_to_half)(const float* src, int64_t count, uint16_t* dst);
  void (*narrow_queries)(const QueryWords& queries);
  void (*attend_page)(const PageAttention& page);
  void (*attend_coded_page)(const CodedPageAttention& page);
  // Adds the state (from_*) of another set of positions to (max, sum, o [dim]).
  void (*merge_state)(float from_max, float from_sum, const float* from_o, int32_t dim, float* max,
                      float* sum, float* o);
  void (*rope)(const RopeHeads& rope);
  // Rotates x [dim] in place to the basis of pages, or back (inverse Hadamard). signs [dim].
  void (*rotate_vector)(float* x, const float* signs, int32_t dim, bool back);
  // Quantises one vector of K or V for a coded page, as kernels/core/quantize.h defines. codes
  // [dim].
  float (*quantize_turbo)(const float* x, int32_t dim, const Codebook& book, uint8_t* codes);
  float (*quantize_int8)(const float* x, int32_t dim, uint8_t* codes);
  void (*quantize_keys)(const KeyRounding& keys);
  void (*measure_keys)(const KeyDistances& keys);
  void (*dequantize_turbo)(const uint8_t* codes, int32_t dim, const Codebook& book, float scale,
                           float* x);
  void (*dequantize_int8)(const uint8_t* codes, int32_t dim, float scale, float* x);
};

const IsaTable& GenericIsaTable();
const IsaTable& Avx2IsaTable();
const IsaTable& AvxVnniIsaTable();
const IsaTable& Avx512IsaTable();
const IsaTable& AmxIsaTable();

}  // namespace thermocline
