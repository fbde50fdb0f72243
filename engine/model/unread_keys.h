#pragma once

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"

namespace thermocline {

// The metadata that change what a model computes and that Transformer does not know: soft caps,
// windows, scales, experts and so on. kUnimplemented names the first one that is not at the value
// that turns it off. Keys that nobody knows are let pass, as llama.cpp does: newer converters add
// descriptive ones.
Status CheckUnreadKeys(const Checkpoint& checkpoint, const ModelConfig& config);

}  // namespace thermocline
