#pragma once

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"

// One reader per model family: metadata of a GGUF file -> ModelConfig. Everything common (sizes,
// RoPE scaling, tensor shapes) is read and checked by ReadModelConfig afterwards; a family says
// only what is peculiar to it.

namespace thermocline {

// Llama 2 and 3, SmolLM2, and what shares their graph ("llama").
Status ReadLlamaConfig(const Checkpoint& checkpoint, ModelConfig& config);

}  // namespace thermocline
