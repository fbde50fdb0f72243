#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/rope.h"
#include "kernels/page_format.h"

// The small operations of a step (kernels/ops.h says what each means): what a launch of each kernel
// gets, and the functions that enqueue it. They are defined twice: in row_launches.cu for a GPU, in
// host_row_launches.cc for the host context. Pointers are memory of the device. `stream`: a
// cudaStream_t; null on the host, where the launch is done at the return.
//
// A row's result depends on that row alone. A step that is padded to a recorded size has rows that
// nobody reads: their list entries name any row that is there.

namespace thermocline {

// out [num_rows, dim] = table[rows[i]] as floats.
struct EmbedLaunch {
  const uint16_t* table = nullptr;  // [vocabulary, dim], halves or bfloat16
  bool is_bfloat16 = false;
  const int32_t* rows = nullptr;  // [num_rows], each in the table
  int32_t num_rows = 0;
  int32_t dim = 0;
  float* out = nullptr;
};
void LaunchEmbed(const EmbedLaunch& launch, void* stream);

// out [num_rows, dim] = x[rows[i]].
struct GatherLaunch {
  const float* x = nullptr;
  const int32_t* rows = nullptr;  // [num_rows], each in x
  int32_t num_rows = 0;
  int32_t dim = 0;
  float* out = nullptr;
};
void LaunchGather(const GatherLaunch& launch, void* stream);

// x, y [num_rows, dim], gain [dim]; y may be x. The order of a row's sum depends on dim alone. It
// is not the CPU's.
struct NormLaunch {
  const float* x = nullptr;
  const float* gain = nullptr;
  float epsilon = 0;
  int32_t num_rows = 0;
  int32_t dim = 0;
  float* y = nullptr;
};
void LaunchNorm(const NormLaunch& launch, void* stream);

// x [num_rows, dim] += bias [dim], with the bits of the reference.
struct BiasLaunch {
  float* x = nullptr;
  const float* bias = nullptr;
  int32_t num_rows = 0;
  int32_t dim = 0;
};
void LaunchBias(const BiasLaunch& launch, void* stream);

// out [num_rows, dim] = activation(gate) * up, of gate_up [num_rows, 2 * dim].
struct GateLaunch {
  const float* gate_up = nullptr;
  bool is_gelu = false;  // of the tanh form; else SiLU
  int32_t num_rows = 0;
  int32_t dim = 0;
  float* out = nullptr;
};
void LaunchGate(const GateLaunch& launch, void* stream);

// What FinishQkv does, with the bits of the reference (but not the payload of a NaN): bias, RoPE of
// queries and keys, rotation of all, K and V into their pages. Each part is left out where its
// pointer is null: so this is Rope and Rotate and AppendKv alone too.
struct QkvLaunch {
  float* qkv = nullptr;  // [num_tokens, row_width]: queries, keys and values
  int64_t row_width = 0;
  int32_t num_tokens = 0;
  int32_t num_heads = 0;  // of queries
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;            // at most 3072
  const float* bias = nullptr;     // [row_width]
  const float* cos_sin = nullptr;  // [num_tokens, num_pairs, 2]
  int32_t num_pairs = 0;
  RopeStyle style = RopeStyle::kInterleaved;
  const float* signs = nullptr;  // [head_dim]
  bool rotates_back = false;
  // Null: keys and values stay in qkv. Otherwise only queries do.
  std::byte* arena = nullptr;
  LayerFormat format;  // of hot pages in this layer
  int32_t page_tokens = 64;
  const PageEntry* token_pages = nullptr;  // [num_tokens]; not hot: the token is written nowhere
  const int32_t* positions = nullptr;      // [num_tokens]
};
void LaunchQkv(const QkvLaunch& launch, void* stream);

// energies [num_layers, num_pages, num_heads] -> heat [num_pages, 2], with the reference's bits.
struct FoldLaunch {
  const float* energies = nullptr;
  int32_t num_layers = 0;
  int32_t num_pages = 0;
  int32_t num_heads = 0;
  float* heat = nullptr;
};
void LaunchFold(const FoldLaunch& launch, void* stream);

}  // namespace thermocline
