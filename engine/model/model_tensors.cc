#include "engine/model/model_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace thermocline {
namespace {

Status CheckTensor(const Checkpoint& checkpoint, const ModelTensor& wanted,
                   std::unordered_set<std::string_view>& read) {
  const CheckpointTensor* tensor = checkpoint.FindTensor(wanted.name);
  if (tensor == nullptr) {
    return wanted.optional ? Status() : InvalidArgument("tensor {}: missing", wanted.name);
  }
  if (tensor->dims != wanted.dims) {
    return InvalidArgument("tensor {}: has shape [{}], the metadata ask for [{}]", wanted.name,
                           fmt::join(tensor->dims, ", "), fmt::join(wanted.dims, ", "));
  }
  read.insert(tensor->name);
  return {};
}

// Nothing is left that nobody reads.
Status CheckRest(const Checkpoint& checkpoint, const std::unordered_set<std::string_view>& read,
                 std::string_view architecture) {
  constexpr size_t kMaxNames = 4;
  std::vector<std::string_view> rest;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (!read.contains(tensor.name)) {
      rest.push_back(tensor.name);
    }
  }
  if (rest.empty()) {
    return {};
  }
  const size_t count = rest.size();
  rest.resize(std::min(count, kMaxNames));
  return Unimplemented(
      "tensor {}: is not supported in a \"{}\" model, which would be wrong without {}",
      fmt::join(rest, ", "), architecture,
      count > kMaxNames ? fmt::format("these and {} more", count - kMaxNames)
                        : (count == 1 ? "it" : "these"));
}

}  // namespace

void ModelTensors::Add(ModelTensor tensor, int layer) {
  (layer == kWholeModel ? model_ : layers_[static_cast<size_t>(layer)])
      .push_back(std::move(tensor));
}

void ModelTensors::AddMatrix(TensorRole role, const std::string& name, int64_t cols, int64_t rows,
                             int layer) {
  Add({.role = role, .name = name + ".weight", .dims = {cols, rows}}, layer);
  Add({.role = role,
       .name = name + ".bias",
       .dims = {rows},
       .part = TensorPart::kBias,
       .optional = true},
      layer);
}

const std::vector<ModelTensor>& ModelTensors::Of(int layer) const {
  return layer == kWholeModel ? model_ : layers_[static_cast<size_t>(layer)];
}

const ModelTensor* ModelTensors::Find(TensorRole role, TensorPart part, int layer) const {
  const std::vector<ModelTensor>& tensors = Of(layer);
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const ModelTensor& tensor) {
    return tensor.role == role && tensor.part == part;
  });
  return found == tensors.end() ? nullptr : &*found;
}

Status ModelTensors::Check(const Checkpoint& checkpoint, const std::string& architecture) const {
  std::unordered_set<std::string_view> read;  // names lie in the checkpoint
  for (int layer = kWholeModel; layer < static_cast<int>(layers_.size()); ++layer) {
    for (const ModelTensor& tensor : Of(layer)) {
      RETURN_IF_ERROR(CheckTensor(checkpoint, tensor, read));
    }
  }
  return CheckRest(checkpoint, read, architecture);
}

const CheckpointTensor* FindTensor(const Checkpoint& checkpoint, const ModelTensors& tensors,
                                   TensorRole role, TensorPart part, int layer) {
  const ModelTensor* tensor = tensors.Find(role, part, layer);
  return tensor == nullptr ? nullptr : checkpoint.FindTensor(tensor->name);
}

}  // namespace thermocline
