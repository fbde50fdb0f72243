#include "tests/testing/tiny_model.h"

#include <cmath>
#include <random>
#include <string>
#include <utility>

#include "tests/testing/test_device.h"

namespace thermocline {
namespace {

ModelConfig TinyConfig(int num_layers, int hidden_size) {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = num_layers;
  config.hidden_size = hidden_size;
  config.intermediate_size = 96;
  config.head_dim = 16;
  config.num_heads = hidden_size / config.head_dim;
  config.num_kv_heads = (config.num_heads + 1) / 2;
  config.vocab_size = kTinyVocab;
  config.context_length = 2048;
  config.tied_embeddings = true;
  config.rope_dim = 16;
  for (int i = 0; i < 8; ++i) {
    config.rope_frequencies.push_back(std::pow(10000.0F, -static_cast<float>(i) / 8));
  }
  return config;
}

FakeCheckpoint TinyCheckpoint(const ModelConfig& config) {
  std::mt19937 random(1);
  FakeCheckpoint checkpoint;
  const auto matrix = [&](const std::string& name, int rows, int cols, float size) {
    std::normal_distribution<float> normal(0, size / std::sqrt(static_cast<float>(cols)));
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& value : values) {
      value = normal(random);
    }
    checkpoint.SetTensor(name, std::move(values), cols);
  };
  const int hidden = config.hidden_size;
  const std::vector<float> ones(static_cast<size_t>(hidden), 1.0F);
  matrix("token_embd.weight", kTinyVocab, hidden, 8);
  checkpoint.SetTensor("output_norm.weight", ones);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const int q = config.num_heads * config.head_dim;
    const int kv = config.num_kv_heads * config.head_dim;
    checkpoint.SetTensor(prefix + "attn_norm.weight", ones);
    checkpoint.SetTensor(prefix + "ffn_norm.weight", ones);
    matrix(prefix + "attn_q.weight", q, hidden, 2);
    matrix(prefix + "attn_k.weight", kv, hidden, 2);
    matrix(prefix + "attn_v.weight", kv, hidden, 1);
    matrix(prefix + "attn_output.weight", hidden, q, 1);
    matrix(prefix + "ffn_gate.weight", config.intermediate_size, hidden, 1);
    matrix(prefix + "ffn_up.weight", config.intermediate_size, hidden, 1);
    matrix(prefix + "ffn_down.weight", hidden, config.intermediate_size, 1);
  }
  return checkpoint;
}

}  // namespace

TinyModel::TinyModel(int num_layers, int hidden_size)
    : config(TinyConfig(num_layers, hidden_size)),
      checkpoint(TinyCheckpoint(config)),
      device(MakeTestDevice(2)),
      layout(MakeKvLayout(config, kTinyPageTokens)) {}

Transformer TinyModel::Load(int max_tokens) const {
  return Transformer::Load(config, checkpoint, *device, device->ops(), max_tokens, {}).value();
}

std::vector<TokenId> TinyModel::CopiedText(int num_pages) const {
  std::mt19937 random(2);
  std::vector<TokenId> tokens;
  for (int i = 0; i < num_pages / 2 * kTinyPageTokens; ++i) {
    tokens.push_back(static_cast<TokenId>(random() % kTinyVocab));
  }
  const std::vector<TokenId> copy = tokens;
  tokens.insert(tokens.end(), copy.begin(), copy.end());
  return tokens;
}

}  // namespace thermocline
