#include "engine/model/model_config.h"

#include <fmt/ranges.h>

#include <string>
#include <string_view>
#include <vector>

#include "engine/model/families/families.h"
#include "engine/model/metadata.h"
#include "engine/model/model_tensors.h"
#include "engine/model/rope_scaling.h"
#include "engine/model/unread_keys.h"
#include "kernels/base/printable.h"
#include "kernels/core/limits.h"

namespace thermocline {
namespace {

// Far beyond any model, near enough that products of two fit in 64 bits with room.
constexpr int64_t kMaxSize = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;

// How long a head of Q, K and V is, and how much of it rotates.
Status ReadHeadDims(const Checkpoint& checkpoint, const std::string& prefix, ModelConfig& config) {
  std::string source = prefix + "attention.key_length";
  if (HasKey(checkpoint, source)) {
    RETURN_IF_ERROR(ReadRequiredInt(checkpoint, source, 1, kMaxSize, config.head_dim));
  } else {
    source = prefix + "attention.head_count";
    if (config.hidden_size % config.num_heads != 0) {
      return InvalidArgument("{}: {} heads do not divide an embedding of {}", source,
                             config.num_heads, config.hidden_size);
    }
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim) {
    return Unimplemented("{}: a head of {} dimensions, which is odd or more than {}", source,
                         config.head_dim, kMaxHeadDim);
  }
  int64_t value_length = config.head_dim;
  RETURN_IF_ERROR(
      ReadOptionalInt(checkpoint, prefix + "attention.value_length", 1, kMaxSize, value_length));
  if (value_length != config.head_dim) {
    return Unimplemented("{}attention.value_length: {} differs from the keys' {}", prefix,
                         value_length, config.head_dim);
  }
  int64_t rope_dim = config.head_dim;
  RETURN_IF_ERROR(
      ReadOptionalInt(checkpoint, prefix + "rope.dimension_count", 2, config.head_dim, rope_dim));
  if (rope_dim % 2 != 0) {
    return InvalidArgument("{}rope.dimension_count: {} is odd", prefix, rope_dim);
  }
  config.rope_dim = static_cast<int>(rope_dim);
  return {};
}

Status ReadHeads(const Checkpoint& checkpoint, const std::string& prefix, ModelConfig& config) {
  const std::string heads = prefix + "attention.head_count";
  const std::string kv_heads = heads + "_kv";
  RETURN_IF_ERROR(
      ReadUniformInt(checkpoint, heads, config.num_layers, 1, kMaxHeads, config.num_heads));
  config.num_kv_heads = config.num_heads;
  if (HasKey(checkpoint, kv_heads)) {
    RETURN_IF_ERROR(
        ReadUniformInt(checkpoint, kv_heads, config.num_layers, 1, kMaxHeads, config.num_kv_heads));
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return InvalidArgument("{}: {} query heads do not divide among {} KV heads", heads,
                           config.num_heads, config.num_kv_heads);
  }
  return ReadHeadDims(checkpoint, prefix, config);
}

// Page entries and tables count the bytes of a page in 32 bits.
Status CheckPageBytes(const ModelConfig& config) {
  constexpr int64_t kMaxPageBytes = int64_t{1} << 31;
  constexpr int64_t kTokenBytes = 2 * 2 * 64;  // K and V in halves, of the longest page
  const int64_t heads = int64_t{config.num_layers} * config.num_kv_heads;
  if (heads * config.head_dim > kMaxPageBytes / kTokenBytes) {
    return InvalidArgument(
        "{}.attention.head_count_kv: {} layers of {} KV heads of {} dimensions are too many for a "
        "page of 64 tokens",
        config.architecture, config.num_layers, config.num_kv_heads, config.head_dim);
  }
  return {};
}

Status ReadSizes(const Checkpoint& checkpoint, ModelConfig& config) {
  const std::string prefix = config.architecture + ".";
  RETURN_IF_ERROR(
      ReadRequiredInt(checkpoint, prefix + "block_count", 1, kMaxLayers, config.num_layers));
  RETURN_IF_ERROR(
      ReadRequiredInt(checkpoint, prefix + "embedding_length", 1, kMaxSize, config.hidden_size));
  RETURN_IF_ERROR(ReadUniformInt(checkpoint, prefix + "feed_forward_length", config.num_layers, 1,
                                 kMaxSize, config.intermediate_size));
  RETURN_IF_ERROR(ReadRequiredInt(checkpoint, prefix + "context_length", 1, int64_t{1} << 30,
                                  config.context_length));
  const std::string epsilon_key = prefix + "attention.layer_norm_rms_epsilon";
  const Result<double> epsilon = checkpoint.ReadFloat(epsilon_key);
  if (!epsilon.ok()) {
    return InvalidArgument("{}", epsilon.status().message());
  }
  if (!(*epsilon > 0 && *epsilon < 1)) {
    return InvalidArgument("{}: {} is not in (0, 1)", epsilon_key, *epsilon);
  }
  config.rms_norm_epsilon = static_cast<float>(*epsilon);
  RETURN_IF_ERROR(ReadHeads(checkpoint, prefix, config));
  return CheckPageBytes(config);
}

// The embedding table, the tokenizer and the metadata agree on the number of tokens.
Status ReadVocabulary(const Checkpoint& checkpoint, ModelConfig& config) {
  const CheckpointTensor* table = checkpoint.FindTensor(kEmbeddingName);
  if (table == nullptr || table->dims.size() != 2 || table->dims[1] > kMaxSize) {
    return InvalidArgument("tensor {}: missing or not a table", kEmbeddingName);
  }
  config.vocab_size = static_cast<int>(table->dims[1]);
  const Result<std::vector<std::string>> tokens = checkpoint.ReadStrings("tokenizer.ggml.tokens");
  if (!tokens.ok()) {
    return InvalidArgument("{}", tokens.status().message());
  }
  if (tokens->size() != static_cast<size_t>(config.vocab_size)) {
    return InvalidArgument("tokenizer.ggml.tokens: {} tokens, but {} has {} rows", tokens->size(),
                           kEmbeddingName, config.vocab_size);
  }
  const std::string size_key = config.architecture + ".vocab_size";
  int64_t size = config.vocab_size;
  RETURN_IF_ERROR(ReadOptionalInt(checkpoint, size_key, 1, kMaxSize, size));
  if (size != config.vocab_size) {
    return InvalidArgument("{}: {}, but {} has {} rows", size_key, size, kEmbeddingName,
                           config.vocab_size);
  }
  return {};
}

// What the file is, before anything of a model is looked for: parts of one and other kinds of GGUF
// file lack what a model has, and each would be refused for another reason.
Status CheckKind(const Checkpoint& checkpoint) {
  int64_t num_parts = 1;
  int64_t part = 0;
  RETURN_IF_ERROR(ReadOptionalInt(checkpoint, "split.count", 0, kMaxSize, num_parts));
  RETURN_IF_ERROR(ReadOptionalInt(checkpoint, "split.no", 0, kMaxSize, part));
  if (num_parts > 1) {
    return Unimplemented(
        "split.count: this is part {} of {}; join them into one file with llama.cpp: "
        "llama-gguf-split --merge FIRST-PART OUTPUT",
        part + 1, num_parts);
  }
  std::string type = "model";
  RETURN_IF_ERROR(ReadOptionalString(checkpoint, "general.type", type));
  if (type != "model") {
    return Unimplemented("general.type: \"{}\": the file is no model to be served",
                         Printable(type, 40));
  }
  return {};
}

}  // namespace

Result<ModelConfig> ReadModelConfig(const Checkpoint& checkpoint) {
  RETURN_IF_ERROR(CheckKind(checkpoint));
  ModelConfig config;
  const Result<std::string> architecture = checkpoint.ReadString("general.architecture");
  if (!architecture.ok()) {
    return InvalidArgument("{}", architecture.status().message());
  }
  const Result<const ModelFamily*> family = FindFamily(*architecture);
  if (!family.ok()) {
    return family.status();
  }
  config.architecture = *architecture;
  RETURN_IF_ERROR(ReadOptionalString(checkpoint, "general.name", config.name));
  RETURN_IF_ERROR(ReadSizes(checkpoint, config));
  RETURN_IF_ERROR(CheckUnreadKeys(checkpoint, config));
  RETURN_IF_ERROR(ReadVocabulary(checkpoint, config));
  RETURN_IF_ERROR((*family)->read_config(checkpoint, config));
  const ModelTensors tensors = (*family)->list_tensors(config);
  RETURN_IF_ERROR(tensors.Check(checkpoint, config.architecture));
  config.tied_embeddings = FindTensor(checkpoint, tensors, TensorRole::kHead) == nullptr;
  RETURN_IF_ERROR(ReadRopeScaling(checkpoint, config));
  return config;
}

}  // namespace thermocline
