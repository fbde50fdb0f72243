#include "kernels/cpu/isa/isa_table.h"

#include <immintrin.h>

namespace thermocline {

#include "kernels/cpu/isa/avx512_kernels.inl"

const IsaTable& Avx512IsaTable() { return kTable; }

}  // namespace thermocline
