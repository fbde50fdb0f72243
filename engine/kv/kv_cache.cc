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
  KvCache cache(layout, *std::move(arena));
  cache.formats_ = std::move(formats);
  RETURN_IF_ERROR(cache.AllocateNumbers(device));
  const std::unique_ptr<Stream> stream = device.NewStream();
  cache.SetFormats(std::move(cache.formats_), *stream);
  RETURN_IF_ERROR(stream->Sync());
  return cache;
}

KvCache::KvCache(const KvLayout& layout, Buffer arena)
    : layout_(layout),
      arena_(std::move(arena)),
      layer_formats_(static_cast<size_t>(layout.num_layers) * kNumTiers) {}

// As much as any calibration has: what is not written to is never taken from the system.
Status KvCache::AllocateNumbers(Device& device) {
  const auto dim = static_cast<size_t>(layout_.head_dim);
  const size_t num_means =
      static_cast<size_t>(layout_.num_layers) * static_cast<size_t>(layout_.num_kv_heads) * dim;
  const auto allocate = [&](size_t bytes, Buffer& buffer) {
    Result<Buffer> allocated = device.Allocate(bytes, Placement::kDevice);
    if (!allocated.ok()) {
      return allocated.status();
    }
    buffer = *std::move(allocated);
    return Status();
  };
  RETURN_IF_ERROR(allocate(num_means * sizeof(float), mean_keys_));
  RETURN_IF_ERROR(allocate(num_means * dim * sizeof(float), query_factors_));
  return allocate(formats_.key_bias ? formats_.key_bias->bytes().size() : 0, key_bias_);
}

void KvCache::SetFormats(KvFormats formats, Stream& stream) {
  for (const Tier tier : kCodedTiers) {
    const std::vector<LayerFormat> layers = LayersOf(tier, layout_, formats).first;
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      layer_formats_[layer * kNumTiers + static_cast<size_t>(tier)] = layers[layer];
    }
  }
  formats_ = std::move(formats);
  const auto upload = [&](std::span<const std::byte> bytes, const Buffer& buffer) {
    CHECK(bytes.size() <= buffer.bytes());
    if (!bytes.empty()) {
      stream.Copy(buffer.data(), bytes.data(), bytes.size());
    }
  };
  upload(std::as_bytes(std::span(formats_.mean_keys)), mean_keys_);
  upload(std::as_bytes(std::span(formats_.query_factors)), query_factors_);
  if (formats_.key_bias) {
    upload(formats_.key_bias->bytes(), key_bias_);
  }
}

KvCacheView KvCache::view(std::span<const PageEntry> page_map) const {
  const auto floats = [](const Buffer& buffer) {
    return static_cast<const float*>(static_cast<const void*>(buffer.data()));
  };
  KvCacheView view = host_view(page_map);
  view.arena = arena_.data();
  view.mean_keys = formats_.mean_keys.empty() ? nullptr : floats(mean_keys_);
  view.query_factors = formats_.query_factors.empty() ? nullptr : floats(query_factors_);
  if (formats_.key_bias) {
    view.key_bias = formats_.key_bias->view(key_bias_.data());
  }
  return view;
}

KvCacheView KvCache::host_view(std::span<const PageEntry> page_map) const {
  return {
      .page_map = page_map.data(),
      .formats = layer_formats_.data(),
      .layout = layout_,
      .mean_keys = formats_.mean_keys.empty() ? nullptr : formats_.mean_keys.data(),
      .key_bias = formats_.key_bias ? formats_.key_bias->view() : KeyBiasView(),
      .query_factors = formats_.query_factors.empty() ? nullptr : formats_.query_factors.data()};
}

}  // namespace thermocline
