#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/model/transformer.h"
#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// Reads one text page by page over a cache of its own, as a long prompt is read in chunks: a page
// that has left the recent window (and is not the first) goes to a tier before the next page reads
// it. Not thread-safe; borrows the model and the device.
class CalibrationPass {
 public:
  // Every so many positions the next-token distribution is looked at: bounds time and memory.
  static constexpr int kStride = 4;

  // kResourceExhausted when the cache cannot be allocated.
  static Result<std::unique_ptr<CalibrationPass>> Create(Transformer& model, Device& device,
                                                         const KvLayout& layout, KvFormats formats,
                                                         int num_pages);

  // Page `page` of the text, all before it having been read. Log probabilities of every kStride-th
  // position, [page_tokens / kStride, vocabulary]. `energy`: [num_layers, page + 1, num_kv_heads],
  // of the page's last chunk, or empty.
  Result<std::vector<float>> ReadPage(std::span<const TokenId> tokens, int page, Tier tier,
                                      std::span<float> energy = {});

  // To be called after a pass with all pages hot: [num_layers, num_kv_heads, head_dim] over all
  // positions but the first page's, of K without its bias.
  std::vector<float> MeanKeys(int num_pages) const;

 private:
  CalibrationPass(Transformer& model, Device& device, KvCache cache,
                  const std::array<uint32_t, kNumTiers>& page_bytes, int num_pages);

  PageEntry Place(Tier tier, int page) const;
  Status Cool(int page, Tier tier);

  Transformer& model_;
  Device& device_;
  std::unique_ptr<Stream> stream_;
  KvCache cache_;
  uint32_t page_units_;  // of the largest tier
  std::vector<PageEntry> page_map_;
  std::vector<PageId> page_ids_;
};

}  // namespace thermocline
