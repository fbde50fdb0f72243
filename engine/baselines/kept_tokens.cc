#include "engine/baselines/kept_tokens.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr uint64_t kAll = ~uint64_t{0};

}  // namespace

KeptTokens::KeptTokens(const KvLayout& layout) : layout_(layout) {
  CHECK(layout.page_tokens <= 64);
}

void KeptTokens::Refill(PageId page) {
  const size_t begin = Index(page, 0, 0);
  const size_t end = Index(page + 1, 0, 0);
  if (masks_.size() < end) {
    masks_.resize(end, kAll);
  }
  std::fill(masks_.begin() + static_cast<std::ptrdiff_t>(begin),
            masks_.begin() + static_cast<std::ptrdiff_t>(end), kAll);
}

void KeptTokens::Evict(PageId page, int layer, int kv_head, int slot) {
  masks_[Index(page, layer, kv_head)] &= ~(uint64_t{1} << slot);
}

uint64_t KeptTokens::below(int length, int index, PageId page, int layer, int kv_head) const {
  const int count = std::clamp(length - index * layout_.page_tokens, 0, layout_.page_tokens);
  return count == 0 ? 0 : of(page, layer, kv_head) & kAll >> (64 - count);
}

}  // namespace thermocline
