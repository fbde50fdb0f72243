#pragma once

#include <string_view>

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/model_tensors.h"
#include "kernels/base/status.h"

// A model family says what is peculiar to it: values of ModelConfig, and which tensors its models
// have under which names. Everything common (sizes, heads, vocabulary) has been read by
// ReadModelConfig when a family is asked; RoPE scaling is read after it.

namespace thermocline {

struct ModelFamily {
  std::string_view architecture;  // GGUF's general.architecture
  Status (*read_config)(const Checkpoint& checkpoint, ModelConfig& config);
  ModelTensors (*list_tensors)(const ModelConfig& config);
};

// Llama 2 and 3, SmolLM2, and what shares their graph.
extern const ModelFamily kLlamaFamily;

// kUnimplemented names the families that there are.
Result<const ModelFamily*> FindFamily(std::string_view architecture);

// The table of a model whose family is known.
ModelTensors ListTensors(const ModelConfig& config);

}  // namespace thermocline
