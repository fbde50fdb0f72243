#pragma once

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"

// One reader per model family: metadata of a GGUF file -> ModelConfig. ReadModelConfig reads and
// checks what is common (sizes, vocabulary, tensor shapes, RoPE scaling). A family adds only what
// is peculiar to it; it may use the sizes and the vocabulary, which are read before.

namespace thermocline {

// Llama 2 and 3, SmolLM2, and what shares their graph ("llama").
Status ReadLlamaConfig(const Checkpoint& checkpoint, ModelConfig& config);

}  // namespace thermocline
