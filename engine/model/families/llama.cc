#include <string>

#include "engine/model/families/families.h"

namespace thermocline {
namespace {

Status ReadConfig(const Checkpoint& /*checkpoint*/, ModelConfig& config) {
  config.activation = Activation::kSilu;
  // The conversion to GGUF permutes the rows of Q and K so that rotated pairs lie side by side.
  config.rope_style = RopeStyle::kInterleaved;
  return {};
}

void AddLayer(const ModelConfig& config, int layer, ModelTensors& tensors) {
  const std::string prefix = "blk." + std::to_string(layer) + ".";
  const int64_t hidden = config.hidden_size;
  const int64_t mlp = config.intermediate_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  using enum TensorRole;
  tensors.Add({.role = kAttentionNorm, .name = prefix + "attn_norm.weight", .dims = {hidden}},
              layer);
  tensors.AddMatrix(kQuery, prefix + "attn_q", hidden, q, layer);
  tensors.AddMatrix(kKey, prefix + "attn_k", hidden, kv, layer);
  tensors.AddMatrix(kValue, prefix + "attn_v", hidden, kv, layer);
  tensors.AddMatrix(kAttentionOutput, prefix + "attn_output", q, hidden, layer);
  tensors.Add({.role = kMlpNorm, .name = prefix + "ffn_norm.weight", .dims = {hidden}}, layer);
  tensors.AddMatrix(kGate, prefix + "ffn_gate", hidden, mlp, layer);
  tensors.AddMatrix(kUp, prefix + "ffn_up", hidden, mlp, layer);
  tensors.AddMatrix(kDown, prefix + "ffn_down", mlp, hidden, layer);
}

ModelTensors ListLlamaTensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  ModelTensors tensors(config.num_layers);
  using enum TensorRole;
  tensors.Add({.role = kEmbedding,
               .name = std::string(kEmbeddingName),
               .dims = {hidden, config.vocab_size}});
  tensors.Add({.role = kFinalNorm, .name = "output_norm.weight", .dims = {hidden}});
  tensors.Add({.role = kHead,
               .name = "output.weight",
               .dims = {hidden, config.vocab_size},
               .optional = true});
  tensors.Add({.role = kRopeFactors,
               .name = std::string(kRopeFactorsName),
               .dims = {config.rope_dim / 2},
               .optional = true});
  for (int layer = 0; layer < config.num_layers; ++layer) {
    AddLayer(config, layer, tensors);
  }
  return tensors;
}

}  // namespace

const ModelFamily kLlamaFamily = {
    .architecture = "llama", .read_config = ReadConfig, .list_tensors = ListLlamaTensors};

}  // namespace thermocline
