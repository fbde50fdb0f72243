#pragma once

#include <utility>
#include <vector>

#include "kernels/cpu/isa/isa_level.h"
#include "kernels/cpu/isa/isa_table.h"

namespace thermocline {

// The tables of the instruction sets that this CPU has.
inline std::vector<std::pair<IsaLevel, const IsaTable*>> IsaTablesHere() {
  std::vector<std::pair<IsaLevel, const IsaTable*>> tables;
  for (const auto& [level, table] : {std::pair{IsaLevel::kGeneric, &GenericIsaTable()},
                                     std::pair{IsaLevel::kAvx2, &Avx2IsaTable()},
                                     std::pair{IsaLevel::kAvxVnni, &AvxVnniIsaTable()},
                                     std::pair{IsaLevel::kAvx512, &Avx512IsaTable()},
                                     std::pair{IsaLevel::kAmx, &AmxIsaTable()}}) {
    if (CpuHas(level)) {
      tables.emplace_back(level, table);
    }
  }
  return tables;
}

}  // namespace thermocline
