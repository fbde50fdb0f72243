#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/rope.h"
#include "kernels/page_format.h"

namespace thermocline {

// The arrays of a KeyBiasView, on the host. Views stay valid when it is moved. The numbers lie in
// one run of bytes, which is copied to a device whole.
class KeyBias {
 public:
  struct Rope {
    RopeStyle style = RopeStyle::kInterleaved;
    // [at most head_dim / 2], radians per position; dimensions beyond their pairs do not rotate.
    std::span<const float> frequencies;
    float magnitude = 1.0F;  // factor on cos and sin
  };

  // `biases` [num_layers, num_kv_heads, head_dim] as the projection adds them; `signs` as
  // RotationSigns gives them. Pages start before max_positions.
  KeyBias(const KvLayout& layout, std::span<const float> biases, const Rope& rope,
          std::span<const float> signs, int max_positions);

  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(numbers_)); }
  // With the numbers at `base`, which is a copy of bytes(), on a device maybe.
  KeyBiasView view(const std::byte* base) const;
  KeyBiasView view() const { return view(bytes().data()); }

 private:
  void AddAngles(const KvLayout& layout, const Rope& rope);

  int32_t num_pairs_;
  int32_t num_pages_;
  std::vector<uint8_t> layers_;
  // Biases, page angles, token angles, signs, and elements, whole numbers of the same width.
  std::vector<float> numbers_;
  size_t page_angles_ = 0;  // where each begins in numbers_
  size_t token_angles_ = 0;
  size_t signs_ = 0;
  size_t elements_ = 0;
};

// k [page_tokens, head_dim], in the basis of pages, += sign * RoPE(b, position). Nothing happens
// where the layer has no bias.
void AddKeyBias(const KvCacheView& kv, int layer, int kv_head, int first_position, float sign,
                float* k);

}  // namespace thermocline
