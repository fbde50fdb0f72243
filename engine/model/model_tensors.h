#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"

namespace thermocline {

// What a tensor is to the forward pass.
enum class TensorRole : uint8_t {
  // Tensors of the whole model:
  kEmbedding,
  kHead,
  kFinalNorm,
  kRopeFactors,
  // Tensors of each layer:
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kAttentionOutput,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
};

enum class TensorPart : uint8_t { kWeight, kBias };

// A tensor that a model of some family has.
struct ModelTensor {
  TensorRole role;
  std::string name;           // in the file
  std::vector<int64_t> dims;  // as CheckpointTensor::dims: a matrix is {cols, rows}
  TensorPart part = TensorPart::kWeight;
  bool optional = false;
};

// The tensors of one model: one table, which the check of a file, the loader of the weights and the
// reader of the K bias all walk. Immutable once a family has filled it.
class ModelTensors {
 public:
  static constexpr int kWholeModel = -1;

  explicit ModelTensors(int num_layers) : layers_(static_cast<size_t>(num_layers)) {}

  void Add(ModelTensor tensor, int layer = kWholeModel);
  // A matrix NAME.weight and its optional bias NAME.bias.
  void AddMatrix(TensorRole role, const std::string& name, int64_t cols, int64_t rows, int layer);

  // Null: models of this family have none.
  const ModelTensor* Find(TensorRole role, TensorPart part = TensorPart::kWeight,
                          int layer = kWholeModel) const;

  // The checkpoint has what the table asks for, in the right shapes, and nothing else: a model that
  // is served without one of its tensors gives wrong answers. Errors name the tensor.
  Status Check(const Checkpoint& checkpoint, const std::string& architecture) const;

 private:
  const std::vector<ModelTensor>& Of(int layer) const;

  std::vector<ModelTensor> model_;
  std::vector<std::vector<ModelTensor>> layers_;
};

// Where in a checkpoint a role's tensor is. Null: it is not there.
const CheckpointTensor* FindTensor(const Checkpoint& checkpoint, const ModelTensors& tensors,
                                   TensorRole role, TensorPart part = TensorPart::kWeight,
                                   int layer = ModelTensors::kWholeModel);

}  // namespace thermocline
