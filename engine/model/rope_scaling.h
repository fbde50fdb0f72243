#pragma once

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"

namespace thermocline {

// Fills rope_frequencies and rope_magnitude of a config whose rope_dim is known: plain RoPE, linear
// position interpolation, YaRN (arXiv 2309.00071, as Hugging Face computes it), and the per-pair
// factors that Llama 3 files carry in the tensor rope_freqs.weight.
Status ReadRopeScaling(const Checkpoint& checkpoint, ModelConfig& config);

}  // namespace thermocline
