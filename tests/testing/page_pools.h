#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

inline constexpr int kFakePageTokens = 4;

// A pool of `num_pages` small pages: one arena unit each.
inline std::unique_ptr<PagePool> MakePool(int num_pages, int page_tokens = kFakePageTokens) {
  const KvLayout layout{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = page_tokens};
  const std::array<uint32_t, kNumTiers> page_bytes = {4096, 0, 0, 0, 0};
  return std::make_unique<PagePool>(layout, page_bytes, static_cast<uint64_t>(num_pages) * 4096);
}

// An arena of `num_units` units in which a hot page takes four, a warm one two, a cold one one.
inline std::unique_ptr<PagePool> MakeTieredPool(int num_units) {
  const KvLayout layout{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = kFakePageTokens};
  const std::array<uint32_t, kNumTiers> page_bytes = {4 * 4096, 2 * 4096, 4096, 0, 0};
  return std::make_unique<PagePool>(layout, page_bytes, static_cast<uint64_t>(num_units) * 4096);
}

// The same with an archive: eight units, four, two and one.
inline std::unique_ptr<PagePool> MakeArchivingPool(int num_units) {
  const KvLayout layout{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = kFakePageTokens};
  const std::array<uint32_t, kNumTiers> page_bytes = {8 * 4096, 4 * 4096, 2 * 4096, 4096, 0};
  return std::make_unique<PagePool>(layout, page_bytes, static_cast<uint64_t>(num_units) * 4096);
}

// A pool of `num_pages` hot pages in the sizes of SmolLM2-135M's: superblocks of several, and pages
// of a tier that do not fill one.
inline std::unique_ptr<PagePool> MakeRealPool(int num_pages, int page_tokens = kFakePageTokens) {
  const KvLayout layout{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = page_tokens};
  const std::array<uint32_t, kNumTiers> page_bytes = {360 * 4096, 186 * 4096, 74 * 4096, 0, 0};
  return std::make_unique<PagePool>(layout, page_bytes,
                                    static_cast<uint64_t>(num_pages) * page_bytes[0]);
}

}  // namespace thermocline
