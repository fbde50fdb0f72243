#include "engine/model/transformer.h"

#include <cmath>
#include <string>
#include <utility>

#include "engine/model/families/families.h"
#include "kernels/base/check.h"
#include "kernels/quant/rotation.h"

namespace thermocline {
namespace {

Tensor View(const Buffer& buffer, int64_t rows, int64_t cols) {
  return {static_cast<float*>(static_cast<void*>(buffer.data())), {rows, cols}};
}

}  // namespace

Tensor Transformer::Vector::tensor() const {
  return size == 0 ? Tensor()
                   : Tensor(static_cast<float*>(static_cast<void*>(buffer.data())),
                            {static_cast<int64_t>(size)});
}

// Reads the tensors of the model's table. ReadModelConfig has checked that all that must be there
// are, in the right shapes.
class Transformer::Loader {
 public:
  Loader(const ModelConfig& config, const Checkpoint& checkpoint, Device& device, const Ops& ops)
      : tensors_(ListTensors(config)), checkpoint_(checkpoint), device_(device), ops_(ops) {}

  // The matrices of these roles stacked along their rows.
  Status Matrix(const std::vector<TensorRole>& roles, int layer,
                std::unique_ptr<Weight>& weight) const {
    std::vector<const CheckpointTensor*> tensors;
    std::vector<WeightSource> parts;
    for (const TensorRole role : roles) {
      const CheckpointTensor* tensor = Find(role, TensorPart::kWeight, layer);
      if (tensor == nullptr || tensor->dims.size() != 2) {
        return InvalidArgument("the model lacks a matrix of layer {}", layer);
      }
      tensors.push_back(tensor);
      parts.push_back({.type = tensor->type,
                       .rows = tensor->dims[1],
                       .cols = tensor->dims[0],
                       .data = tensor->data});
    }
    Result<std::unique_ptr<Weight>> prepared = ops_.PrepareWeight(parts);
    if (!prepared.ok()) {
      return {prepared.status().code(), tensors.front()->name + ": " + prepared.status().message()};
    }
    weight = *std::move(prepared);
    for (const CheckpointTensor* tensor : tensors) {  // else file and copy are in memory together
      checkpoint_.Release(*tensor);
    }
    return {};
  }

  // A vector as float32.
  Status Gain(TensorRole role, int layer, Vector& vector) const {
    const CheckpointTensor* tensor = Find(role, TensorPart::kWeight, layer);
    if (tensor == nullptr) {
      return InvalidArgument("the model lacks a norm of layer {}", layer);
    }
    std::vector<float> values(static_cast<size_t>(tensor->dims[0]));
    Dequantize(tensor->type, tensor->data, tensor->dims[0], values.data());
    return Upload(values, vector);
  }

  // The biases of these matrices one after the other; those that the model lacks are zero. Empty
  // where it lacks all.
  Status Biases(const std::vector<TensorRole>& roles, int layer, Vector& vector) const {
    std::vector<float> values;
    bool is_any = false;
    for (const TensorRole role : roles) {
      const int64_t size = Find(role, TensorPart::kWeight, layer)->dims[1];
      const size_t begin = values.size();
      values.resize(begin + static_cast<size_t>(size), 0.0F);
      if (const CheckpointTensor* bias = Find(role, TensorPart::kBias, layer)) {
        CHECK(bias->dims[0] == size);
        Dequantize(bias->type, bias->data, size, values.data() + begin);
        is_any = true;
      }
    }
    return is_any ? Upload(values, vector) : Status();
  }

  Status Linear(const std::vector<TensorRole>& roles, int layer, std::unique_ptr<Weight>& weight,
                Vector& bias) const {
    RETURN_IF_ERROR(Matrix(roles, layer, weight));
    return Biases(roles, layer, bias);
  }

  Status ReadLayer(int index, Layer& layer) const {
    using enum TensorRole;
    RETURN_IF_ERROR(Gain(kAttentionNorm, index, layer.attention_norm));
    RETURN_IF_ERROR(Linear({kQuery, kKey, kValue}, index, layer.qkv, layer.qkv_bias));
    RETURN_IF_ERROR(Linear({kAttentionOutput}, index, layer.output, layer.output_bias));
    RETURN_IF_ERROR(Gain(kMlpNorm, index, layer.mlp_norm));
    RETURN_IF_ERROR(Linear({kGate, kUp}, index, layer.gate_up, layer.gate_up_bias));
    return Linear({kDown}, index, layer.down, layer.down_bias);
  }

  Status Upload(std::span<const float> values, Vector& vector) const {
    Result<Buffer> buffer = device_.Allocate(values.size_bytes(), Placement::kDevice);
    if (!buffer.ok()) {
      return buffer.status();
    }
    const std::unique_ptr<Stream> stream = device_.NewStream();
    stream->Copy(buffer->data(), std::as_bytes(values).data(), values.size_bytes());
    RETURN_IF_ERROR(stream->Sync());
    vector = {*std::move(buffer), values.size()};
    return {};
  }

 private:
  const CheckpointTensor* Find(TensorRole role, TensorPart part, int layer) const {
    return FindTensor(checkpoint_, tensors_, role, part, layer);
  }

  const ModelTensors tensors_;
  const Checkpoint& checkpoint_;
  Device& device_;
  const Ops& ops_;
};

Result<Transformer> Transformer::Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                      Device& device, const Ops& ops, int max_tokens,
                                      const std::function<void(double)>& on_progress) {
  Transformer model(config, ops);
  const Loader loader(config, checkpoint, device, ops);
  constexpr int kWholeModel = ModelTensors::kWholeModel;
  RETURN_IF_ERROR(
      loader.Upload(RotationSigns(config.head_dim, kRotationSeed), model.rotation_signs_));
  if (!config.tied_embeddings) {
    RETURN_IF_ERROR(loader.Matrix({TensorRole::kEmbedding}, kWholeModel, model.embedding_));
  }
  model.layers_.resize(static_cast<size_t>(config.num_layers));
  for (int i = 0; i < config.num_layers; ++i) {
    RETURN_IF_ERROR(loader.ReadLayer(i, model.layers_[static_cast<size_t>(i)]));
    if (on_progress) {
      on_progress(static_cast<double>(i + 1) / (config.num_layers + 1));
    }
  }
  RETURN_IF_ERROR(loader.Gain(TensorRole::kFinalNorm, kWholeModel, model.final_norm_));
  RETURN_IF_ERROR(
      loader.Matrix({config.tied_embeddings ? TensorRole::kEmbedding : TensorRole::kHead},
                    kWholeModel, model.head_));
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    checkpoint.Release(tensor);  // what came back with its neighbours
  }
  RETURN_IF_ERROR(model.AllocateActivations(device, max_tokens));
  if (on_progress) {
    on_progress(1.0);
  }
  return model;
}

Status Transformer::AllocateActivations(Device& device, int max_tokens) {
  max_tokens_ = max_tokens;
  step_ = ops_.NewStepData({.num_heads = config_.num_heads, .max_tokens = max_tokens},
                           {.num_layers = config_.num_layers,
                            .num_kv_heads = config_.num_kv_heads,
                            .head_dim = config_.head_dim});
  const auto allocate = [&](int64_t rows, int64_t cols, Placement placement, Buffer& buffer) {
    Result<Buffer> allocated =
        device.Allocate(static_cast<size_t>(rows * cols) * sizeof(float), placement);
    if (!allocated.ok()) {
      return allocated.status();
    }
    buffer = *std::move(allocated);
    return Status();
  };
  const Placement device_memory = Placement::kDevice;
  RETURN_IF_ERROR(allocate(max_tokens, config_.hidden_size, device_memory, hidden_));
  RETURN_IF_ERROR(allocate(max_tokens, config_.hidden_size, device_memory, normed_));
  RETURN_IF_ERROR(allocate(max_tokens, q_width() + 2 * kv_width(), device_memory, qkv_));
  RETURN_IF_ERROR(allocate(max_tokens, q_width(), device_memory, attention_));
  RETURN_IF_ERROR(
      allocate(max_tokens, 2 * int64_t{config_.intermediate_size}, device_memory, gate_up_));
  RETURN_IF_ERROR(allocate(max_tokens, config_.intermediate_size, device_memory, activated_));
  RETURN_IF_ERROR(allocate(max_tokens, config_.rope_dim, device_memory, cos_sin_));
  RETURN_IF_ERROR(allocate(max_tokens, config_.rope_dim, Placement::kHost, cos_sin_staged_));
  RETURN_IF_ERROR(allocate(kMaxLogitRows, config_.hidden_size, device_memory, logit_hidden_));
  return allocate(kMaxLogitRows, config_.vocab_size, device_memory, logits_);
}

void Transformer::Forward(const BatchView& given, const KvCacheView& kv, Stream& stream,
                          const WatchedLayers& watched) {
  BatchView batch = given;
  batch.on_device = step_.get();
  CHECK(batch.num_tokens > 0 && batch.num_tokens <= max_tokens_);
  const bool watches = !watched.layers.empty();
  CHECK(!watches || (watched.energy.dim(0) == static_cast<int64_t>(watched.layers.size()) &&
                     watched.energy.dim(1) == batch.page_starts[batch.num_sequences] &&
                     watched.energy.dim(2) == config_.num_kv_heads));
  ComputeAngles(batch);
  stream.Copy(cos_sin_.data(), cos_sin_staged_.data(),
              static_cast<size_t>(batch.num_tokens) * static_cast<size_t>(config_.rope_dim) *
                  sizeof(float));
  ops_.LoadStep(batch, kv, stream);
  ops_.Embed(batch, embedding_ ? *embedding_ : *head_,
             View(hidden_, batch.num_tokens, config_.hidden_size), stream);
  size_t num_watched = 0;
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    float* energy = nullptr;
    if (num_watched < watched.layers.size() && watched.layers[num_watched] == layer) {
      const auto index = static_cast<int64_t>(num_watched++);
      energy = watched.energy.f32() + index * watched.energy.dim(1) * watched.energy.dim(2);
    }
    RunAttention(layer, batch, kv, stream, energy);
    RunMlp(layers_[static_cast<size_t>(layer)], batch.num_tokens, stream);
  }
  CHECK(num_watched == watched.layers.size());
}

// In double: at position 8000 a float angle is off by 5e-4 radians.
void Transformer::ComputeAngles(const BatchView& batch) {
  float* out = View(cos_sin_staged_, batch.num_tokens, config_.rope_dim).f32();
  for (int row = 0; row < batch.num_tokens; ++row) {
    const double position = batch.positions[row];
    for (const float frequency : config_.rope_frequencies) {
      const double angle = position * static_cast<double>(frequency);
      *out++ = static_cast<float>(std::cos(angle) * static_cast<double>(config_.rope_magnitude));
      *out++ = static_cast<float>(std::sin(angle) * static_cast<double>(config_.rope_magnitude));
    }
  }
}

void Transformer::RunAttention(int index, const BatchView& batch, const KvCacheView& kv,
                               Stream& stream, float* page_energy) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t rows = batch.num_tokens;
  const Tensor hidden = View(hidden_, rows, config_.hidden_size);
  const Tensor normed = View(normed_, rows, config_.hidden_size);
  const Tensor qkv = View(qkv_, rows, q_width() + 2 * kv_width());
  const Tensor attention = View(attention_, rows, q_width());
  const Tensor cos_sin(static_cast<float*>(static_cast<void*>(cos_sin_.data())),
                       {rows, config_.rope_dim / 2, 2});

  ops_.RmsNorm(hidden, layer.attention_norm.tensor(), config_.rms_norm_epsilon, normed, stream);
  ops_.MatMul(normed, *layer.qkv, qkv, MatMulMode::kStore, stream);
  ops_.FinishQkv(qkv,
                 {.layer = index,
                  .num_heads = config_.num_heads,
                  .bias = layer.qkv_bias.tensor(),
                  .cos_sin = cos_sin,
                  .style = config_.rope_style,
                  .signs = rotation_signs_.tensor()},
                 batch, kv, stream);
  if (observer_) {
    observer_(index, qkv, batch, kv, stream);
  }
  const AttentionParams params{.layer = index,
                               .scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim)),
                               .page_energy = page_energy};
  ops_.PagedAttention(qkv, config_.num_heads, batch, kv, params, attention, stream);
  ops_.Rotate(attention, config_.num_heads, rotation_signs_.tensor(), Rotation::kBack, stream);
  ops_.MatMul(attention, *layer.output, hidden, MatMulMode::kAdd, stream);
  AddBias(layer.output_bias, hidden, stream);
}

void Transformer::RunMlp(const Layer& layer, int num_tokens, Stream& stream) {
  const Tensor hidden = View(hidden_, num_tokens, config_.hidden_size);
  const Tensor normed = View(normed_, num_tokens, config_.hidden_size);
  const Tensor gate_up = View(gate_up_, num_tokens, 2 * int64_t{config_.intermediate_size});
  const Tensor activated = View(activated_, num_tokens, config_.intermediate_size);
  ops_.RmsNorm(hidden, layer.mlp_norm.tensor(), config_.rms_norm_epsilon, normed, stream);
  ops_.MatMul(normed, *layer.gate_up, gate_up, MatMulMode::kStore, stream);
  AddBias(layer.gate_up_bias, gate_up, stream);
  ops_.GatedActivation(gate_up, config_.activation, activated, stream);
  ops_.MatMul(activated, *layer.down, hidden, MatMulMode::kAdd, stream);
  AddBias(layer.down_bias, hidden, stream);
}

void Transformer::AddBias(const Vector& bias, Tensor x, Stream& stream) const {
  if (bias.size > 0) {
    ops_.AddBias(x, bias.tensor(), stream);
  }
}

Tensor Transformer::ComputeLogits(std::span<const int32_t> rows, Stream& stream) {
  CHECK(!rows.empty() && rows.size() <= static_cast<size_t>(kMaxLogitRows));
  const auto num_rows = static_cast<int64_t>(rows.size());
  const Tensor hidden = View(logit_hidden_, num_rows, config_.hidden_size);
  const Tensor logits = View(logits_, num_rows, config_.vocab_size);
  ops_.GatherRows(View(hidden_, max_tokens_, config_.hidden_size), rows, hidden, stream);
  ops_.RmsNorm(hidden, final_norm_.tensor(), config_.rms_norm_epsilon, hidden, stream);
  ops_.MatMul(hidden, *head_, logits, MatMulMode::kStore, stream);
  return logits;
}

size_t Transformer::weight_bytes() const {
  size_t bytes = (embedding_ ? embedding_->num_bytes() : 0) + head_->num_bytes() +
                 final_norm_.size * sizeof(float);
  for (const Layer& layer : layers_) {
    bytes += layer.qkv->num_bytes() + layer.output->num_bytes() + layer.gate_up->num_bytes() +
             layer.down->num_bytes();
    for (const Vector* vector : {&layer.attention_norm, &layer.qkv_bias, &layer.output_bias,
                                 &layer.mlp_norm, &layer.gate_up_bias, &layer.down_bias}) {
      bytes += vector->size * sizeof(float);
    }
  }
  return bytes;
}

}  // namespace thermocline
