#pragma once

#include <cstdint>

namespace thermocline {

// Where the memory goes; printed at start.
struct MemoryBudget {
  uint64_t weight_bytes = 0;
  uint64_t kv_arena_bytes = 0;
  uint64_t page_bytes = 0;
  uint64_t num_kv_tokens = 0;  // that the arena holds, all hot
  int max_model_len = 0;
  uint64_t cold_page_bytes = 0;
  double cold_kl = 0;  // Calibration's, before a budget widens pages; 0: not measured yet
};

}  // namespace thermocline
