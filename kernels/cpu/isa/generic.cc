#include "kernels/cpu/isa/isa_table.h"

#include "kernels/core/half.h"

namespace thermocline {

// clang-format off
// Each file builds on those before it.
#include "kernels/cpu/isa/simd_generic.inl"
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

const IsaTable& GenericIsaTable() { return kTable; }

}  // namespace thermocline
