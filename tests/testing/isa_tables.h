#pragma once

#include <utility>
#include <vector>

#include "kernels/cpu/isa/isa_level.h"
#include "kernels/cpu/isa/isa_table.h"

namespace thermocline {

// Of the instruction sets that this CPU has.
inline std::vector<std::pair<IsaLevel, const IsaTable*>> IsaTablesHere() {
  std::vector<std::pair<IsaLevel, const IsaTable*>> tables = {
      {IsaLevel::kGeneric, &GenericIsaTable()}};
  if (DetectIsa() >= IsaLevel::kAvx2) {
    tables.emplace_back(IsaLevel::kAvx2, &Avx2IsaTable());
  }
  if (DetectIsa() >= IsaLevel::kAvx512) {
    tables.emplace_back(IsaLevel::kAvx512, &Avx512IsaTable());
  }
  if (DetectIsa() >= IsaLevel::kAvx512Bf16) {
    tables.emplace_back(IsaLevel::kAvx512Bf16, &Avx512Bf16IsaTable());
  }
  return tables;
}

}  // namespace thermocline
