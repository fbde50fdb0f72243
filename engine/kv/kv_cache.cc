#include "engine/kv/kv_cache.h"

#include <utility>

#include "engine/model/families/families.h"
#include "kernels/base/check.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/rotation.h"

namespace thermocline {
namespace {

constexpr Tier kCodedTiers[] = {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive};

// What an archived page holds of a layer: merged rows, unless its tokens need their positions (for
// the bias of their keys), or are too dear for few bits even by themselves.
Codec ArchiveCodec(size_t layer, const KvLayout& layout, const KvFormats& formats) {
  const Codec cold = formats.cold[layer];
  const bool has_bias = formats.key_bias && formats.key_bias->view().has(static_cast<int>(layer));
  if (has_bias || !CanMerge(layout)) {
    return cold;
  }
  switch (cold) {
    case Codec::kTurbo3:
      return Codec::kMerged2;
    case Codec::kTurboK4V3:
      return Codec::kMergedK3V2;
    default:
      return cold;
  }
}

Codec CodecOf(Tier tier, size_t layer, const KvLayout& layout, const KvFormats& formats) {
  switch (tier) {
    case Tier::kHot:
      return Codec::kNative;
    case Tier::kWarm:
      return Codec::kInt8;
    case Tier::kArchive:
      return ArchiveCodec(layer, layout, formats);
    default:
      return formats.cold[layer];
  }
}

// [num_layers], and the bytes of all of them.
std::pair<std::vector<LayerFormat>, uint64_t> LayersOf(Tier tier, const KvLayout& layout,
                                                       const KvFormats& formats) {
  CHECK(formats.cold.size() == static_cast<size_t>(layout.num_layers));
  std::vector<LayerFormat> layers;
  uint64_t bytes = 0;
  for (size_t layer = 0; layer < formats.cold.size(); ++layer) {
    const Codec codec = CodecOf(tier, layer, layout, formats);
    const uint32_t head_bytes = BlockLayoutOf(codec, layout).bytes;
    layers.push_back(
        {.codec = codec, .layer_offset = static_cast<uint32_t>(bytes), .head_stride = head_bytes});
    bytes += uint64_t{head_bytes} * static_cast<uint64_t>(layout.num_kv_heads);
  }
  return {std::move(layers), bytes};
}

}  // namespace

KvFormats DefaultKvFormats(const KvLayout& layout) {
  return {.cold = std::vector<Codec>(static_cast<size_t>(layout.num_layers), Codec::kTurbo3)};
}

KvFormats SafeKvFormats(const KvLayout& layout) {
  return {.cold = std::vector<Codec>(static_cast<size_t>(layout.num_layers), Codec::kTurboK4V3)};
}

KvLayout MakeKvLayout(const ModelConfig& config, int page_tokens) {
  return {.num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .page_tokens = page_tokens};
}

std::optional<KeyBias> ReadKeyBias(const ModelConfig& config, const Checkpoint& checkpoint,
                                   const KvLayout& layout, int max_positions) {
  const size_t width =
      static_cast<size_t>(config.num_kv_heads) * static_cast<size_t>(config.head_dim);
  std::vector<float> biases(static_cast<size_t>(config.num_layers) * width, 0.0F);
  const ModelTensors tensors = ListTensors(config);
  bool is_any = false;
  for (size_t layer = 0; layer < static_cast<size_t>(config.num_layers); ++layer) {
    const CheckpointTensor* bias = FindTensor(checkpoint, tensors, TensorRole::kKey,
                                              TensorPart::kBias, static_cast<int>(layer));
    if (bias != nullptr) {
      is_any = true;
      Dequantize(bias->type, bias->data, static_cast<int64_t>(width),
                 biases.data() + layer * width);
    }
  }
  if (!is_any) {
    return std::nullopt;
  }
  return KeyBias(layout, biases,
                 {.style = config.rope_style,
                  .frequencies = config.rope_frequencies,
                  .magnitude = config.rope_magnitude},
                 RotationSigns(config.head_dim, kRotationSeed),
                 max_positions > 0 ? max_positions : config.context_length);
}

std::array<uint32_t, kNumTiers> PageBytes(const KvLayout& layout, const KvFormats& formats) {
  std::array<uint32_t, kNumTiers> bytes{};
  for (const Tier tier : kCodedTiers) {
    const uint64_t payload = LayersOf(tier, layout, formats).second;
    const uint64_t units = (payload + kArenaUnitBytes - 1) / kArenaUnitBytes;
    bytes[static_cast<size_t>(tier)] = static_cast<uint32_t>(units * kArenaUnitBytes);
  }
  uint32_t& archive = bytes[static_cast<size_t>(Tier::kArchive)];
  archive = archive < bytes[static_cast<size_t>(Tier::kCold)] ? archive : 0;
  return bytes;
}

Result<KvCache> KvCache::Create(Device& device, const KvLayout& layout, KvFormats formats,
                                uint64_t arena_bytes) {
  Result<Buffer> arena = device.Allocate(arena_bytes, Placement::kDevice);
  if (!arena.ok()) {
    return ResourceExhausted("a KV cache of {} bytes cannot be allocated: {}", arena_bytes,
                             arena.status().message());
  }
  return KvCache(layout, std::move(formats), std::move(*arena));
}

KvCache::KvCache(const KvLayout& layout, KvFormats formats, Buffer arena)
    : layout_(layout),
      arena_(std::move(arena)),
      formats_(static_cast<size_t>(layout.num_layers) * kNumTiers) {
  SetFormats(std::move(formats));
}

void KvCache::SetFormats(KvFormats formats) {
  for (const Tier tier : kCodedTiers) {
    const std::vector<LayerFormat> layers = LayersOf(tier, layout_, formats).first;
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      formats_[layer * kNumTiers + static_cast<size_t>(tier)] = layers[layer];
    }
  }
  mean_keys_ = std::move(formats.mean_keys);
  query_factors_ = std::move(formats.query_factors);
  key_bias_ = std::move(formats.key_bias);
}

KvCacheView KvCache::view(std::span<const PageEntry> page_map) const {
  return {.arena = arena_.data(),
          .page_map = page_map.data(),
          .formats = formats_.data(),
          .layout = layout_,
          .mean_keys = mean_keys_.empty() ? nullptr : mean_keys_.data(),
          .key_bias = key_bias_ ? key_bias_->view() : KeyBiasView(),
          .query_factors = query_factors_.empty() ? nullptr : query_factors_.data()};
}

}  // namespace thermocline
