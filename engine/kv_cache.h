#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/model_config.h"
#include "kernels/base/status.h"
#include "kernels/device.h"
#include "kernels/page_format.h"

namespace thermocline {

// How the pages of one model are coded, from its calibration.
struct KvFormats {
  std::vector<Codec> cold;       // [num_layers]: what a cold page holds
  std::vector<float> mean_keys;  // as KvCacheView::mean_keys; empty: none
};

// 3-bit cold pages and no mean keys: what is known without a calibration.
KvFormats DefaultKvFormats(const KvLayout& layout);

// The shape of a model's KV cache with pages of `page_tokens` positions.
KvLayout MakeKvLayout(const ModelConfig& config, int page_tokens);

// Bytes of one page of each tier, whole arena units. 0: no codec writes this tier.
std::array<uint32_t, kNumTiers> PageBytes(const KvLayout& layout, const KvFormats& formats);

// The arena that holds every page's bytes, and how they are encoded in each tier and layer. Which
// page is where is PagePool's to say.
class KvCache {
 public:
  static Result<KvCache> Create(Device& device, const KvLayout& layout, KvFormats formats,
                                uint64_t arena_bytes);

  // For one step: `page_map` may grow or move between steps.
  KvCacheView view(std::span<const PageEntry> page_map) const;
  const KvLayout& layout() const { return layout_; }

 private:
  KvCache(const KvLayout& layout, KvFormats formats, Buffer arena);

  KvLayout layout_;
  Buffer arena_;
  std::vector<float> mean_keys_;
  std::vector<LayerFormat> formats_;  // [num_layers][kNumTiers]
};

}  // namespace thermocline
