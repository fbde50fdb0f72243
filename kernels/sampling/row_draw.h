#pragma once

#include <cstdint>

namespace thermocline {

// How the next token is drawn from a row of logits, as vLLM orders it: temperature, min_p, top_k,
// top_p.
struct RowDraw {
  int32_t row = 0;
  float temperature = 0;  // 0: greedy, and nothing below counts
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;   // 0: all
  double uniform = 0;  // in [0, 1): the chance of the draw
};

}  // namespace thermocline
