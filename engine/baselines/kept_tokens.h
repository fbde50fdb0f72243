#pragma once

#include <cstdint>
#include <vector>

#include "kernels/page_format.h"

namespace thermocline {

// Which tokens of each page every layer and KV head still has.
class KeptTokens {
 public:
  explicit KeptTokens(const KvLayout& layout);

  // All positions of the page are kept, as of one that is written anew. Called at least once before
  // the page is read.
  void Refill(PageId page);
  void Evict(PageId page, int layer, int kv_head, int slot);

  // Bit t is set: position t of the page is kept. So are positions that nobody has written.
  uint64_t of(PageId page, int layer, int kv_head) const {
    return masks_[Index(page, layer, kv_head)];
  }
  // The same of the sequence's page `index`, less the positions from `length` on.
  uint64_t below(int length, int index, PageId page, int layer, int kv_head) const;

 private:
  size_t Index(PageId page, int layer, int kv_head) const {
    return (size_t{page} * static_cast<size_t>(layout_.num_layers) + static_cast<size_t>(layer)) *
               static_cast<size_t>(layout_.num_kv_heads) +
           static_cast<size_t>(kv_head);
  }

  KvLayout layout_;
  std::vector<uint64_t> masks_;  // [pages up to the highest refilled, num_layers, num_kv_heads]
};

}  // namespace thermocline
