#include "kernels/cpu/isa/isa_table.h"

#include <immintrin.h>

namespace thermocline {

#include "kernels/cpu/isa/avx2_kernels.inl"

const IsaTable& AvxVnniIsaTable() { return kTable; }

}  // namespace thermocline
