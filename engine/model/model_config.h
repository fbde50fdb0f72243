#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "kernels/base/status.h"
#include "kernels/ops.h"

namespace thermocline {

// Tensors that have one name in the files of all families: the embedding table, whose rows are the
// vocabulary, and the divisors of Llama 3's RoPE frequencies.
inline constexpr std::string_view kEmbeddingName = "token_embd.weight";
inline constexpr std::string_view kRopeFactorsName = "rope_freqs.weight";

// Everything that Transformer needs to know about a model; flat, so that a family is data.
struct ModelConfig {
  std::string architecture;  // GGUF's general.architecture
  std::string name;
  int num_layers = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int context_length = 0;
  float rms_norm_epsilon = 1e-5F;
  Activation activation = Activation::kSilu;
  bool tied_embeddings = false;  // the head is the embedding table

  RopeStyle rope_style = RopeStyle::kInterleaved;
  int rope_dim = 0;  // leading dimensions of a head that rotate, at most head_dim
  // Radians per position of each rotated pair, scaling (linear, YaRN, Llama 3 factors) included.
  std::vector<float> rope_frequencies;  // [rope_dim / 2]
  float rope_magnitude = 1.0F;          // YaRN's factor on cos and sin
};

// Reads and checks the metadata and the shape of every tensor. The file is used whole: what would
// change results and is not read is an error (unread_keys.h, model_tensors.h).
// kInvalidArgument names the field that is bad, kUnimplemented the one that is not supported.
Result<ModelConfig> ReadModelConfig(const Checkpoint& checkpoint);

}  // namespace thermocline
