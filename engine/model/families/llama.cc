#include "engine/model/families/families.h"

namespace thermocline {

Status ReadLlamaConfig(const Checkpoint& /*checkpoint*/, ModelConfig& config) {
  config.activation = Activation::kSilu;
  // The conversion to GGUF permutes the rows of Q and K so that rotated pairs lie side by side.
  config.rope_style = RopeStyle::kInterleaved;
  return {};
}

}  // namespace thermocline
