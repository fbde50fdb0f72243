#include "engine/model/tensor_list.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace thermocline {
namespace {

// Notes the tensors that are read, one by one.
class TensorList {
 public:
  explicit TensorList(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  Status Require(const std::string& name, std::vector<int64_t> dims) {
    if (checkpoint_.FindTensor(name) == nullptr) {
      return InvalidArgument("tensor {}: missing", name);
    }
    return Allow(name, std::move(dims));
  }

  // Takes down a tensor that may be absent. Its shape must fit.
  Status Allow(const std::string& name, std::vector<int64_t> dims) {
    const CheckpointTensor* tensor = checkpoint_.FindTensor(name);
    if (tensor == nullptr) {
      return {};
    }
    if (tensor->dims != dims) {
      return InvalidArgument("tensor {}: has shape [{}], the metadata ask for [{}]", name,
                             fmt::join(tensor->dims, ", "), fmt::join(dims, ", "));
    }
    read_.insert(tensor->name);
    return {};
  }

  // A matrix {cols, rows} and its bias, which may be absent.
  Status Matrix(const std::string& name, int64_t cols, int64_t rows) {
    RETURN_IF_ERROR(Require(name + ".weight", {cols, rows}));
    return Allow(name + ".bias", {rows});
  }

  // Checks that no tensor is left that nobody reads.
  Status CheckRest(std::string_view architecture) const {
    constexpr size_t kMaxNames = 4;
    std::vector<std::string_view> rest;
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      if (!read_.contains(tensor.name)) {
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

 private:
  const Checkpoint& checkpoint_;
  std::unordered_set<std::string_view> read_;  // names lie in the checkpoint
};

Status CheckLayer(const ModelConfig& config, int layer, TensorList& tensors) {
  const std::string prefix = fmt::format("blk.{}.", layer);
  const int64_t hidden = config.hidden_size;
  const int64_t mlp = config.intermediate_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  RETURN_IF_ERROR(tensors.Require(prefix + "attn_norm.weight", {hidden}));
  RETURN_IF_ERROR(tensors.Matrix(prefix + "attn_q", hidden, q));
  RETURN_IF_ERROR(tensors.Matrix(prefix + "attn_k", hidden, kv));
  RETURN_IF_ERROR(tensors.Matrix(prefix + "attn_v", hidden, kv));
  RETURN_IF_ERROR(tensors.Matrix(prefix + "attn_output", q, hidden));
  RETURN_IF_ERROR(tensors.Require(prefix + "ffn_norm.weight", {hidden}));
  RETURN_IF_ERROR(tensors.Matrix(prefix + "ffn_gate", hidden, mlp));
  RETURN_IF_ERROR(tensors.Matrix(prefix + "ffn_up", hidden, mlp));
  return tensors.Matrix(prefix + "ffn_down", mlp, hidden);
}

}  // namespace

Status CheckTensors(const Checkpoint& checkpoint, ModelConfig& config) {
  TensorList tensors(checkpoint);
  const int64_t hidden = config.hidden_size;
  RETURN_IF_ERROR(tensors.Require("token_embd.weight", {hidden, config.vocab_size}));
  RETURN_IF_ERROR(tensors.Require("output_norm.weight", {hidden}));
  config.tied_embeddings = checkpoint.FindTensor("output.weight") == nullptr;
  RETURN_IF_ERROR(tensors.Allow("output.weight", {hidden, config.vocab_size}));
  RETURN_IF_ERROR(tensors.Allow("rope_freqs.weight", {config.rope_dim / 2}));
  for (int layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(CheckLayer(config, layer, tensors));
  }
  return tensors.CheckRest(config.architecture);
}

}  // namespace thermocline
