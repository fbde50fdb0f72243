#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace thermocline {

// A decoder's weights, in the form one device multiplies fastest, and the activations of one step.
// One forward pass for all models, driven by ModelConfig. Allocates nothing after Load.
// Used by one thread at a time; `device` and `ops` outlive it, nothing of the checkpoint is needed.
class Transformer {
 public:
  // The most rows that one call of ComputeLogits takes: bounds the memory of logits.
  static constexpr int kMaxLogitRows = 64;

  // `ops` are the device's or, in tests, others that compute on host memory.
  // `max_tokens`: of one step. `on_progress` (may be empty) gets a fraction in [0, 1].
  static Result<Transformer> Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                  Device& device, const Ops& ops, int max_tokens,
                                  const std::function<void(double)>& on_progress);

  // AttentionParams::page_energy of some layers, ascending.
  struct WatchedLayers {
    std::span<const int> layers;
    Tensor energy;  // [layers.size(), pages of the batch, num_kv_heads]
  };

  // Runs the batch's tokens through all layers, writes their K and V into the cache and keeps the
  // last hidden states for ComputeLogits. Stages what it uploads in memory of one step: the stream
  // has been synced since the Forward before.
  void Forward(const BatchView& batch, const KvCacheView& kv, Stream& stream,
               const WatchedLayers& watched = {});

  // Called in each layer once the work that puts the step's K and V into the cache is enqueued,
  // before attention. May enqueue and sync. Empty: nobody looks.
  using AttentionObserver = std::function<void(int layer, Tensor qkv, const BatchView& batch,
                                               const KvCacheView& kv, Stream& stream)>;
  void set_attention_observer(AttentionObserver observer) { observer_ = std::move(observer); }

  // Logits of rows of the last Forward, at most kMaxLogitRows: [rows.size(), vocab_size], valid
  // until the next call. To be read after Stream::Sync.
  Tensor ComputeLogits(std::span<const int32_t> rows, Stream& stream);

  const ModelConfig& config() const { return config_; }
  int max_tokens() const { return max_tokens_; }
  size_t weight_bytes() const;

 private:
  // A vector of float32 on the device: a gain or a bias.
  struct Vector {
    Buffer buffer;
    size_t size = 0;
    Tensor tensor() const;  // [size]; empty: there is none
  };
  struct Layer {
    Vector attention_norm;
    std::unique_ptr<Weight> qkv;  // Q over K over V
    Vector qkv_bias;              // each bias is laid out as its matrix; empty: none
    std::unique_ptr<Weight> output;
    Vector output_bias;
    Vector mlp_norm;
    std::unique_ptr<Weight> gate_up;
    Vector gate_up_bias;
    std::unique_ptr<Weight> down;
    Vector down_bias;
  };
  class Loader;

  Transformer(const ModelConfig& config, const Ops& ops) : config_(config), ops_(ops) {}
  Status AllocateActivations(Device& device, int max_tokens);
  void ComputeAngles(const BatchView& batch);
  void RunAttention(int layer, const BatchView& batch, const KvCacheView& kv, Stream& stream,
                    float* page_energy);
  void RunMlp(const Layer& layer, int num_tokens, Stream& stream);
  void AddBias(const Vector& bias, Tensor x, Stream& stream) const;

  int64_t q_width() const { return int64_t{config_.num_heads} * config_.head_dim; }
  int64_t kv_width() const { return int64_t{config_.num_kv_heads} * config_.head_dim; }

  ModelConfig config_;
  const Ops& ops_;
  Vector rotation_signs_;              // [head_dim]
  std::unique_ptr<Weight> embedding_;  // null: the head
  std::vector<Layer> layers_;
  Vector final_norm_;
  std::unique_ptr<Weight> head_;
  AttentionObserver observer_;

  // Activations of one step, of max_tokens_ rows each.
  int max_tokens_ = 0;
  std::unique_ptr<StepData> step_;
  Buffer hidden_;          // [num_tokens, hidden_size], the residual stream
  Buffer normed_;          // [num_tokens, hidden_size]
  Buffer qkv_;             // [num_tokens, q_width + 2 * kv_width]
  Buffer attention_;       // [num_tokens, q_width]
  Buffer gate_up_;         // [num_tokens, 2 * intermediate_size]
  Buffer activated_;       // [num_tokens, intermediate_size]
  Buffer cos_sin_;         // [num_tokens, rope_dim / 2, 2]
  Buffer cos_sin_staged_;  // the same on the host
  Buffer logit_hidden_;    // [kMaxLogitRows, hidden_size]
  Buffer logits_;          // [kMaxLogitRows, vocab_size]
};

}  // namespace thermocline
