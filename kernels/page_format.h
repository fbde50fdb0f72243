#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"

// What the scheduler, the migrator and every attention kernel agree on. Read this first.
//
// A page holds `page_tokens` positions of K and V for all layers, contiguous, so that a page of one
// tier has one size. Page tables hold PageIds and only grow; where the bytes are, and how they are
// encoded, stands in the page map: a move between tiers is one write of a PageEntry.

namespace thermocline {

// How far a page has cooled. kBacked: it has no slot in the arena, as free pages have none.
enum class Tier : uint8_t { kHot, kWarm, kCold, kArchive, kBacked };
inline constexpr int kNumTiers = 5;

// How the bytes of one layer of a page are decoded. kMerged2 and kMergedK3V2: fewer rows than
// tokens, each for one token or for some whose keys are alike.
enum class Codec : uint8_t { kNative, kInt8, kTurbo3, kTurboK4V3, kMerged2, kMergedK3V2 };
HD constexpr bool IsMerged(Codec codec) {
  return codec == Codec::kMerged2 || codec == Codec::kMergedK3V2;
}

// Logical and stable: a page keeps its id when its bytes move. Indexes the page map.
using PageId = uint32_t;

// Places in the arena are counted in units of 4 KiB.
inline constexpr uint64_t kArenaUnitBytes = 4096;
inline constexpr uint32_t kMaxArenaUnits = uint32_t{1} << 29;

// Where a page is now: 3 bits of tier tag, 29 bits of offset into the one arena (2 TiB at most).
class PageEntry {
 public:
  HD constexpr PageEntry() = default;
  HD constexpr PageEntry(Tier tier, uint32_t unit)
      : bits_(static_cast<uint32_t>(tier) << 29 | (unit & (kMaxArenaUnits - 1))) {}
  HD constexpr Tier tier() const { return static_cast<Tier>(bits_ >> 29); }
  HD constexpr uint32_t unit() const { return bits_ & (kMaxArenaUnits - 1); }
  HD constexpr uint64_t offset() const { return uint64_t{unit()} * kArenaUnitBytes; }
  HD constexpr bool operator==(const PageEntry& other) const { return bits_ == other.bits_; }

 private:
  uint32_t bits_ = 0;
};
static_assert(sizeof(PageEntry) == 4);

// One page from one place to another, which may be of another tier. The page stays readable where
// it was until the page map is switched, between steps, once all bytes are in the new place.
struct PageMove {
  PageId page = 0;
  uint32_t generation = 0;  // of the page when the move began: how many had ended before
  PageEntry from;
  PageEntry to;
  uint64_t checksum = 0;  // of the bytes at `from`; means nothing while these are hot
  // Of the page's first token in its sequences: equal in all that share it. Only codecs of models
  // with a K bias ask for it, and only of full pages.
  int32_t first_position = 0;
};

// How a move's copy went. The new place is undefined unless it is kOk.
struct MoveResult {
  enum class Outcome : uint8_t { kOk, kNotFinite, kCorrupt, kDeviceError };
  Outcome outcome = Outcome::kOk;
  uint64_t checksum = 0;  // of the bytes at `to`
  float seconds = 0;      // what the copy took, its part of a batch
};

// Of one tier in one layer. `layer_offset`: bytes from the page's start to the layer's block;
// `head_stride`: bytes from one KV head's block to the next inside it.
struct LayerFormat {
  Codec codec = Codec::kNative;
  uint32_t layer_offset = 0;
  uint32_t head_stride = 0;
};

struct KvLayout {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int page_tokens = 64;
};

// One (layer, KV head) block of a kNative page: K [page_tokens, head_dim] IEEE half, then V the
// same.
HD constexpr uint32_t NativeVectorBytes(const KvLayout& layout) {
  return static_cast<uint32_t>(layout.head_dim) * 2;
}
HD constexpr uint32_t NativeHeadBytes(const KvLayout& layout) {
  return 2 * static_cast<uint32_t>(layout.page_tokens) * NativeVectorBytes(layout);
}
HD constexpr uint32_t NativeVOffset(const KvLayout& layout) { return NativeHeadBytes(layout) / 2; }

// The bias b of a model's K projection, which swamps a code of few bits: coded pages hold K less
// RoPE(b, position), and attention adds <q, RoPE(b, position)> to their scores. RoPE's rotation by
// a position is one by the page's first position and one inside the page, and a pair of dimensions
// is a complex number, its parts each in an array of their own. kernels/quant/key_bias.h fills it.
// The numbers are in the memory of the device that the view is of, `layers` in the host's.
struct KeyBiasView {
  int32_t num_pairs = 0;                // head_dim / 2; 0: no layer has a bias
  int32_t num_pages = 0;                // that have angles
  const uint8_t* layers = nullptr;      // [num_layers]: which have a bias
  const float* biases = nullptr;        // [num_layers][num_kv_heads][2][num_pairs], before RoPE
  const int32_t* elements = nullptr;    // [2][num_pairs]: where in a head each part is
  const float* page_angles = nullptr;   // [num_pages][2][num_pairs]: cos, sin; RoPE's magnitude too
  const float* token_angles = nullptr;  // [2][num_pairs][page_tokens]: cos, -sin
  const float* signs = nullptr;         // [head_dim]: of the pages' basis

  HD bool has(int layer) const { return num_pairs > 0 && layers[layer] != 0; }
};

// Passed to operations by value. What a device has of it: the arena, mean keys, query factors and
// the numbers of the key bias. The rest is on the host, which resolves it.
struct KvCacheView {
  std::byte* arena = nullptr;
  const PageEntry* page_map = nullptr;   // indexed by PageId
  const LayerFormat* formats = nullptr;  // [num_layers][kNumTiers]
  KvLayout layout;
  // [num_layers][num_kv_heads][head_dim], in the basis of the pages: what coded K is short by,
  // beside its bias. Null: nothing.
  const float* mean_keys = nullptr;
  KeyBiasView key_bias;
  // [num_layers][num_kv_heads][head_dim][head_dim]: factors of the second moments of each head's
  // queries, scaled as attention scales them: what keys of few bits are rounded for
  // (kernels/core/key_rounding.h), and by which keys are alike (kernels/core/key_distances.h). Read
  // by moves alone, on the host or device that makes them. Null: keys are rounded one coordinate
  // apart from the other, and alike when they are near.
  const float* query_factors = nullptr;

  HD const float* mean_key(int layer, int kv_head) const {
    return mean_keys == nullptr ? nullptr
                                : mean_keys + (static_cast<size_t>(layer) *
                                                   static_cast<size_t>(layout.num_kv_heads) +
                                               static_cast<size_t>(kv_head)) *
                                                  static_cast<size_t>(layout.head_dim);
  }
  HD const float* query_factors_of(int layer, int kv_head) const {
    return query_factors == nullptr
               ? nullptr
               : query_factors +
                     (static_cast<size_t>(layer) * static_cast<size_t>(layout.num_kv_heads) +
                      static_cast<size_t>(kv_head)) *
                         static_cast<size_t>(layout.head_dim) *
                         static_cast<size_t>(layout.head_dim);
  }
  // [2][num_pairs]
  HD const float* key_bias_of(int layer, int kv_head) const {
    return key_bias.biases +
           (static_cast<size_t>(layer) * static_cast<size_t>(layout.num_kv_heads) +
            static_cast<size_t>(kv_head)) *
               2 * static_cast<size_t>(key_bias.num_pairs);
  }
  HD const LayerFormat& format(int layer, Tier tier) const {
    return formats[layer * kNumTiers + static_cast<int>(tier)];
  }
  // The (layer, KV head) block of a page, whatever its tier.
  HD std::byte* block(PageId page, int layer, int kv_head) const {
    return block_at(page_map[page], layer, kv_head);
  }
  HD std::byte* block_at(PageEntry entry, int layer, int kv_head) const {
    const LayerFormat& layer_format = format(layer, entry.tier());
    return arena + entry.offset() + layer_format.layer_offset +
           static_cast<size_t>(kv_head) * layer_format.head_stride;
  }
};

}  // namespace thermocline
