#include "engine/kv_cache.h"

#include <string>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/rotation.h"

namespace thermocline {
namespace {

struct TierCodec {
  Tier tier;
  Codec codec;
};
constexpr TierCodec kTierCodecs[] = {
    {Tier::kHot, Codec::kNative}, {Tier::kWarm, Codec::kInt8}, {Tier::kCold, Codec::kTurbo3}};

}  // namespace

KvLayout MakeKvLayout(const ModelConfig& config, int page_tokens) {
  return {.num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .page_tokens = page_tokens};
}

std::optional<KeyBias> ReadKeyBias(const ModelConfig& config, const Checkpoint& checkpoint,
                                   const KvLayout& layout) {
  if (!config.attention_bias) {
    return std::nullopt;
  }
  const size_t width =
      static_cast<size_t>(config.num_kv_heads) * static_cast<size_t>(config.head_dim);
  std::vector<float> biases(static_cast<size_t>(config.num_layers) * width);
  for (size_t layer = 0; layer < static_cast<size_t>(config.num_layers); ++layer) {
    const CheckpointTensor* bias =
        checkpoint.FindTensor("blk." + std::to_string(layer) + ".attn_k.bias");
    CHECK(bias != nullptr);
    Dequantize(bias->type, bias->data, static_cast<int64_t>(width), biases.data() + layer * width);
  }
  return KeyBias(layout, biases,
                 {.style = config.rope_style,
                  .frequencies = config.rope_frequencies,
                  .magnitude = config.rope_magnitude},
                 RotationSigns(config.head_dim, kRotationSeed), config.context_length);
}

std::array<uint32_t, kNumTiers> PageBytes(const KvLayout& layout) {
  std::array<uint32_t, kNumTiers> bytes{};
  for (const TierCodec& tier : kTierCodecs) {
    const uint64_t payload = uint64_t{BlockLayoutOf(tier.codec, layout).bytes} *
                             static_cast<uint64_t>(layout.num_kv_heads) *
                             static_cast<uint64_t>(layout.num_layers);
    const uint64_t units = (payload + kArenaUnitBytes - 1) / kArenaUnitBytes;
    bytes[static_cast<size_t>(tier.tier)] = static_cast<uint32_t>(units * kArenaUnitBytes);
  }
  return bytes;
}

Result<KvCache> KvCache::Create(Device& device, const KvLayout& layout, uint64_t arena_bytes) {
  Result<Buffer> arena = device.Allocate(arena_bytes, Placement::kDevice);
  if (!arena.ok()) {
    return ResourceExhausted("a KV cache of {} bytes cannot be allocated: {}", arena_bytes,
                             arena.status().message());
  }
  return KvCache(layout, std::move(*arena));
}

KvCache::KvCache(const KvLayout& layout, Buffer arena)
    : layout_(layout),
      arena_(std::move(arena)),
      formats_(static_cast<size_t>(layout.num_layers) * kNumTiers) {
  for (const TierCodec& tier : kTierCodecs) {
    const uint32_t head_bytes = BlockLayoutOf(tier.codec, layout).bytes;
    const uint32_t layer_bytes = head_bytes * static_cast<uint32_t>(layout.num_kv_heads);
    for (uint32_t layer = 0; layer < static_cast<uint32_t>(layout.num_layers); ++layer) {
      formats_[layer * kNumTiers + static_cast<uint32_t>(tier.tier)] = {
          .codec = tier.codec, .layer_offset = layer * layer_bytes, .head_stride = head_bytes};
    }
  }
}

KvCacheView KvCache::view(std::span<const PageEntry> page_map) const {
  return {.arena = arena_.data(),
          .page_map = page_map.data(),
          .formats = formats_.data(),
          .layout = layout_,
          .key_bias = key_bias_ ? key_bias_->view() : KeyBiasView()};
}

}  // namespace thermocline
