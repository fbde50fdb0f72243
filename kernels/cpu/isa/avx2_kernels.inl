// All kernels of AVX2, with and without AVX-VNNI. Each file builds on those before it.

// clang-format off
#include "kernels/cpu/isa/transpose_avx2.inl"
#include "kernels/cpu/isa/simd_avx2.inl"
#include "kernels/cpu/isa/matmul.inl"
#include "kernels/cpu/isa/float_matmul.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/softmax.inl"
#include "kernels/cpu/isa/key_bias.inl"
#include "kernels/cpu/isa/coded_rows.inl"
#include "kernels/cpu/isa/elements.inl"
#include "kernels/cpu/isa/multiply_rows.inl"
#include "kernels/cpu/isa/transpose_keys.inl"
#include "kernels/cpu/isa/attention.inl"
#include "kernels/cpu/isa/coded_attention.inl"
#include "kernels/cpu/isa/quantize.inl"
#include "kernels/cpu/isa/key_rounding.inl"
#include "kernels/cpu/isa/key_distances.inl"
#include "kernels/cpu/isa/rotate.inl"
#include "kernels/cpu/isa/table.inl"
// clang-format on
