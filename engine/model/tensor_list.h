#pragma once

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"

namespace thermocline {

// Checks the tensors of a checkpoint against its configuration. What Transformer needs must be
// there, in the right shape; biases may be, of any matrix of any layer. Any other tensor is an
// error that names it: a model that is served without one gives wrong answers.
// Sets ModelConfig::tied_embeddings.
Status CheckTensors(const Checkpoint& checkpoint, ModelConfig& config);

}  // namespace thermocline
