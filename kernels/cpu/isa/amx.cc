#include "kernels/cpu/isa/isa_table.h"

#include <immintrin.h>

namespace thermocline {

// clang-format off
#include "kernels/cpu/isa/avx512_kernels.inl"
#include "kernels/cpu/isa/amx_matmul.inl"
// clang-format on

namespace {

constexpr IsaTable kTableWithTiles = WithTiles(kTable);

}  // namespace

const IsaTable& AmxIsaTable() { return kTableWithTiles; }

}  // namespace thermocline
