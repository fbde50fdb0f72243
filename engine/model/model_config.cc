#include "engine/model/model_config.h"

#include <array>
#include <cmath>
#include <string>

#include "engine/model/families/families.h"
#include "engine/model/metadata.h"
#include "engine/model/rope_scaling.h"

namespace thermocline {
namespace {

struct Family {
  std::string_view architecture;
  Status (*read)(const Checkpoint& checkpoint, ModelConfig& config);
};

constexpr std::array kFamilies = {Family{"llama", ReadLlamaConfig}};

// Far beyond any model, near enough that products of two fit in 64 bits with room.
constexpr int64_t kMaxSize = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;

Status ReadHeads(const Checkpoint& checkpoint, const std::string& prefix, ModelConfig& config) {
  const std::string heads = prefix + "attention.head_count";
  RETURN_IF_ERROR(ReadRequiredInt(checkpoint, heads, 1, kMaxHeads, config.num_heads));
  int64_t kv_heads = config.num_heads;
  RETURN_IF_ERROR(ReadOptionalInt(checkpoint, heads + "_kv", 1, kMaxHeads, kv_heads));
  config.num_kv_heads = static_cast<int>(kv_heads);
  if (config.num_heads % config.num_kv_heads != 0) {
    return InvalidArgument("{}: {} query heads do not divide among {} KV heads", heads,
                           config.num_heads, config.num_kv_heads);
  }
  int64_t head_dim = 0;
  RETURN_IF_ERROR(
      ReadOptionalInt(checkpoint, prefix + "attention.key_length", 1, kMaxHeadDim, head_dim));
  if (head_dim == 0) {
    if (config.hidden_size % config.num_heads != 0) {
      return InvalidArgument("{}: {} heads do not divide an embedding of {}", heads,
                             config.num_heads, config.hidden_size);
    }
    head_dim = config.hidden_size / config.num_heads;
  }
  if (head_dim % 2 != 0 || head_dim > kMaxHeadDim) {
    return InvalidArgument("{}: a head of {} dimensions is odd or over {}", heads, head_dim,
                           kMaxHeadDim);
  }
  config.head_dim = static_cast<int>(head_dim);
  int64_t value_length = head_dim;
  RETURN_IF_ERROR(
      ReadOptionalInt(checkpoint, prefix + "attention.value_length", 1, kMaxHeadDim, value_length));
  if (value_length != head_dim) {
    return Unimplemented("{}attention.value_length: {} differs from the keys' {}", prefix,
                         value_length, head_dim);
  }
  int64_t rope_dim = head_dim;
  RETURN_IF_ERROR(
      ReadOptionalInt(checkpoint, prefix + "rope.dimension_count", 2, head_dim, rope_dim));
  if (rope_dim % 2 != 0) {
    return InvalidArgument("{}rope.dimension_count: {} is odd", prefix, rope_dim);
  }
  config.rope_dim = static_cast<int>(rope_dim);
  return {};
}

Status ReadSizes(const Checkpoint& checkpoint, ModelConfig& config) {
  const std::string prefix = config.architecture + ".";
  RETURN_IF_ERROR(
      ReadRequiredInt(checkpoint, prefix + "block_count", 1, kMaxLayers, config.num_layers));
  RETURN_IF_ERROR(
      ReadRequiredInt(checkpoint, prefix + "embedding_length", 1, kMaxSize, config.hidden_size));
  RETURN_IF_ERROR(ReadRequiredInt(checkpoint, prefix + "feed_forward_length", 1, kMaxSize,
                                  config.intermediate_size));
  RETURN_IF_ERROR(ReadRequiredInt(checkpoint, prefix + "context_length", 1, int64_t{1} << 30,
                                  config.context_length));
  int64_t num_experts = 0;
  RETURN_IF_ERROR(ReadOptionalInt(checkpoint, prefix + "expert_count", 0, kMaxSize, num_experts));
  if (num_experts != 0) {
    return Unimplemented("{}expert_count: mixtures of experts are not supported", prefix);
  }
  const std::string epsilon_key = prefix + "attention.layer_norm_rms_epsilon";
  double epsilon = 1e-5;
  RETURN_IF_ERROR(ReadOptionalFloat(checkpoint, epsilon_key, epsilon));
  if (!(epsilon > 0 && epsilon < 1)) {
    return InvalidArgument("{}: {} is not in (0, 1)", epsilon_key, epsilon);
  }
  config.rms_norm_epsilon = static_cast<float>(epsilon);
  return ReadHeads(checkpoint, prefix, config);
}

Status CheckShape(const Checkpoint& checkpoint, const std::string& name,
                  std::vector<int64_t> dims) {
  const CheckpointTensor* tensor = checkpoint.FindTensor(name);
  if (tensor == nullptr) {
    return InvalidArgument("tensor {}: missing", name);
  }
  if (tensor->dims != dims) {
    return InvalidArgument("tensor {}: has shape [{}], the metadata ask for [{}]", name,
                           fmt::join(tensor->dims, ", "), fmt::join(dims, ", "));
  }
  return {};
}

Status CheckLayer(const Checkpoint& checkpoint, const ModelConfig& config, int layer) {
  const std::string prefix = fmt::format("blk.{}.", layer);
  const int64_t hidden = config.hidden_size;
  const int64_t mlp = config.intermediate_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_norm.weight", {hidden}));
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_q.weight", {hidden, q}));
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_k.weight", {hidden, kv}));
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_v.weight", {hidden, kv}));
  if (config.attention_bias) {
    RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_q.bias", {q}));
    RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_k.bias", {kv}));
    RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_v.bias", {kv}));
  }
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "attn_output.weight", {q, hidden}));
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "ffn_norm.weight", {hidden}));
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "ffn_gate.weight", {hidden, mlp}));
  RETURN_IF_ERROR(CheckShape(checkpoint, prefix + "ffn_up.weight", {hidden, mlp}));
  return CheckShape(checkpoint, prefix + "ffn_down.weight", {mlp, hidden});
}

Status ReadVocabulary(const Checkpoint& checkpoint, ModelConfig& config) {
  const CheckpointTensor* table = checkpoint.FindTensor("token_embd.weight");
  if (table == nullptr || table->dims.size() != 2 || table->dims[1] > kMaxSize) {
    return InvalidArgument("tensor token_embd.weight: missing or not a table");
  }
  config.vocab_size = static_cast<int>(table->dims[1]);
  const Result<std::vector<std::string>> tokens = checkpoint.ReadStrings("tokenizer.ggml.tokens");
  if (!tokens.ok()) {
    return InvalidArgument("{}", tokens.status().message());
  }
  if (tokens->size() != static_cast<size_t>(config.vocab_size)) {
    return InvalidArgument("tokenizer.ggml.tokens: {} tokens, but token_embd.weight has {} rows",
                           tokens->size(), config.vocab_size);
  }
  return {};
}

Status CheckTensors(const Checkpoint& checkpoint, ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  RETURN_IF_ERROR(CheckShape(checkpoint, "token_embd.weight", {hidden, config.vocab_size}));
  RETURN_IF_ERROR(CheckShape(checkpoint, "output_norm.weight", {hidden}));
  config.tied_embeddings = checkpoint.FindTensor("output.weight") == nullptr;
  if (!config.tied_embeddings) {
    RETURN_IF_ERROR(CheckShape(checkpoint, "output.weight", {hidden, config.vocab_size}));
  }
  for (int layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(CheckLayer(checkpoint, config, layer));
  }
  return {};
}

}  // namespace

Result<ModelConfig> ReadModelConfig(const Checkpoint& checkpoint) {
  ModelConfig config;
  const Result<std::string> architecture = checkpoint.ReadString("general.architecture");
  if (!architecture.ok()) {
    return InvalidArgument("{}", architecture.status().message());
  }
  config.architecture = *architecture;
  const Family* family = nullptr;
  for (const Family& candidate : kFamilies) {
    if (candidate.architecture == config.architecture) {
      family = &candidate;
    }
  }
  if (family == nullptr) {
    return Unimplemented("general.architecture: \"{}\" is not supported",
                         config.architecture.substr(0, 40));
  }
  RETURN_IF_ERROR(ReadOptionalString(checkpoint, "general.name", config.name));
  RETURN_IF_ERROR(ReadSizes(checkpoint, config));
  RETURN_IF_ERROR(ReadVocabulary(checkpoint, config));
  RETURN_IF_ERROR(family->read(checkpoint, config));
  RETURN_IF_ERROR(CheckTensors(checkpoint, config));
  RETURN_IF_ERROR(ReadRopeScaling(checkpoint, config));
  return config;
}

}  // namespace thermocline
