#pragma once

#include <memory>
#include <vector>

#include "engine/kv/kv_cache.h"
#include "engine/model/model_config.h"
#include "engine/model/transformer.h"
#include "kernels/device.h"
#include "tests/testing/fake_checkpoint.h"

namespace thermocline {

inline constexpr int kTinyPageTokens = 64;
inline constexpr int kTinyVocab = 61;

// A Transformer of random weights, large enough for attention to be peaked, and what it runs on.
struct TinyModel {
  explicit TinyModel(int num_layers = 3, int hidden_size = 64);

  Transformer Load(int max_tokens) const;
  // Random tokens, `num_pages` pages of them, the second half as the first.
  std::vector<TokenId> CopiedText(int num_pages) const;

  ModelConfig config;
  FakeCheckpoint checkpoint;
  std::unique_ptr<Device> device;
  KvLayout layout;
};

}  // namespace thermocline
