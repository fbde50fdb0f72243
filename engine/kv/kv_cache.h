#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "kernels/base/status.h"
#include "kernels/device.h"
#include "kernels/page_format.h"
#include "kernels/quant/key_bias.h"

namespace thermocline {

// How the pages of one model are coded, from its weights and its calibration.
struct KvFormats {
  std::vector<Codec> cold;           // [num_layers]: what a cold page holds
  std::vector<float> mean_keys;      // as KvCacheView::mean_keys; empty: none
  std::vector<float> query_factors;  // as KvCacheView::query_factors; empty: none
  std::optional<KeyBias> key_bias;   // nothing: the model's K projection has none
};

// The smallest: 3-bit cold pages, no mean keys and no factors.
KvFormats DefaultKvFormats(const KvLayout& layout);
// 4-bit keys in all layers: right for any model before it has been calibrated.
KvFormats SafeKvFormats(const KvLayout& layout);

// The shape of a model's KV cache with pages of `page_tokens` positions.
KvLayout MakeKvLayout(const ModelConfig& config, int page_tokens);

// The bias of the model's K projection in the form that codecs of pages need; nothing for a model
// that has none. ReadModelConfig has checked the checkpoint. `max_positions` that a sequence may
// have bound its memory; 0: the model's context.
std::optional<KeyBias> ReadKeyBias(const ModelConfig& config, const Checkpoint& checkpoint,
                                   const KvLayout& layout, int max_positions = 0);

// Bytes of one page of each tier, whole arena units. 0: no codec writes this tier, or none that
// makes an archived page smaller than a cold one.
std::array<uint32_t, kNumTiers> PageBytes(const KvLayout& layout, const KvFormats& formats);

// The arena that holds every page's bytes, and how they are encoded in each tier and layer, with
// the numbers that codecs need, on one device. Which page is where is PagePool's to say.
class KvCache {
 public:
  static Result<KvCache> Create(Device& device, const KvLayout& layout, KvFormats formats,
                                uint64_t arena_bytes);

  // Between steps, while no page is in a tier that both code differently and nothing moves; of the
  // same model, so with the same key bias or none. Views that were made before are no longer valid.
  // Enqueues: other streams may use new views once this one has been synced.
  void SetFormats(KvFormats formats, Stream& stream);

  // For one step: `page_map` may grow or move between steps.
  KvCacheView view(std::span<const PageEntry> page_map) const;
  // The same without an arena, its numbers in host memory: for blocks that the host decodes.
  KvCacheView host_view(std::span<const PageEntry> page_map) const;
  const KvLayout& layout() const { return layout_; }

 private:
  KvCache(const KvLayout& layout, Buffer arena);
  // Room for mean keys, query factors and the key bias.
  Status AllocateNumbers(Device& device);

  KvLayout layout_;
  Buffer arena_;
  std::vector<LayerFormat> layer_formats_;  // [num_layers][kNumTiers]
  KvFormats formats_;                       // what was uploaded, which streams may still read
  Buffer mean_keys_;
  Buffer query_factors_;
  Buffer key_bias_;
};

}  // namespace thermocline
