// All kernels of AVX-512 VNNI, with and without AMX. Each file builds on those before it.

// clang-format off
#include "kernels/cpu/isa/transpose_avx2.inl"
#include "kernels/cpu/isa/simd_avx512.inl"
#include "kernels/cpu/isa/matmul.inl"
#include "kernels/cpu/isa/float_matmul.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/softmax.inl"
#include "kernels/cpu/isa/key_bias.inl"
#include "kernels/cpu/isa/coded_rows.inl"
#include "kernels/cpu/isa/wide_halves.inl"
#include "kernels/cpu/isa/word_keys.inl"
#include "kernels/cpu/isa/word_values.inl"
#include "kernels/cpu/isa/code_pairs.inl"
#include "kernels/cpu/isa/multiply_rows.inl"
#include "kernels/cpu/isa/word_softmax.inl"
#include "kernels/cpu/isa/word_attention.inl"
#include "kernels/cpu/isa/quantize.inl"
#include "kernels/cpu/isa/key_rounding.inl"
#include "kernels/cpu/isa/key_distances.inl"
#include "kernels/cpu/isa/rotate.inl"
#include "kernels/cpu/isa/table.inl"
// clang-format on
