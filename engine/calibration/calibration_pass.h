#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/kv/host_copy.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/transformer.h"
#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// Reads texts page by page over a cache of its own, as a long prompt is read in chunks: a page that
// has left the recent window (and is not the first) goes to a tier before the next page reads it.
// Not thread-safe; borrows the model and the device.
class CalibrationPass {
 public:
  // Every so many positions the next-token distribution is looked at: bounds time and memory.
  static constexpr int kStride = 4;

  // Starts with all pages hot and none read. kResourceExhausted when the cache cannot be allocated.
  static Result<std::unique_ptr<CalibrationPass>> Create(Transformer& model, Device& device,
                                                         const KvLayout& layout, KvFormats formats,
                                                         int num_pages);
  // The first page whose reading may differ from one with all pages hot.
  static int FirstCooledPage(int page_tokens);

  // All pages are hot again, and coded as `formats` say from now on. What the hot pages hold stays:
  // those that the next text begins with need not be read again.
  Status Restart(KvFormats formats);

  // A page that leaves the window as `page` is begun goes to `tier`. Before its first ReadChunk.
  Status BeginPage(int page, Tier tier);
  // `count` positions of page `page` from its `first` on, all before them having been read; at most
  // the model's max_tokens(). Log probabilities of those that kStride divides, [rows, vocabulary].
  // `energy`: [num_layers, page + 1, num_kv_heads], of this chunk's queries, or empty.
  Result<std::vector<float>> ReadChunk(std::span<const TokenId> tokens, int page, int first,
                                       int count, std::span<float> energy = {});

  // [num_layers, num_kv_heads, head_dim] of K without its bias, over the positions of hot pages
  // [1, num_pages).
  Result<std::vector<float>> MeanKeys(int num_pages);

  // Adds to losses [num_layers] what coding a hot page's keys with the pass's cold codecs costs by
  // the rule: the mean of (q, e)^2 for the error e of a key and queries of `moments` (see
  // QueryMoments), the worst head's. The page stays hot.
  Status AddKeyLosses(int page, std::span<const float> moments, std::vector<double>& losses);

 private:
  CalibrationPass(Transformer& model, Device& device, KvCache cache, int num_pages);

  PageEntry Place(Tier tier, int page) const;
  Status Code(int page, Tier tier);
  // The bytes at a place, in `copy` or where they are; read once this has returned.
  Result<const std::byte*> ReadPage(PageEntry place, HostCopy& copy);

  Transformer& model_;
  Device& device_;
  std::unique_ptr<Stream> stream_;
  KvCache cache_;
  std::vector<PageEntry> page_map_;
  std::vector<PageId> page_ids_;
  std::vector<int> all_layers_;
  Buffer energy_;  // of a chunk, on the device
  HostCopy host_page_;
  HostCopy host_coded_page_;
  HostCopy host_logits_;
};

}  // namespace thermocline
