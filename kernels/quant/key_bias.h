#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/rope.h"
#include "kernels/page_format.h"

namespace thermocline {

// The arrays of a KeyBiasView, on the host. Views stay valid when it is moved.
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

  KeyBiasView view() const;

 private:
  int32_t num_pairs_;
  std::vector<uint8_t> layers_;
  std::vector<float> biases_;
  std::vector<int32_t> elements_;
  std::vector<float> page_angles_;
  std::vector<float> token_angles_;
  std::vector<float> signs_;
};

// k [page_tokens, head_dim], in the basis of pages, += sign * RoPE(b, position). Nothing happens
// where the layer has no bias.
void AddKeyBias(const KvCacheView& kv, int layer, int kv_head, int first_position, float sign,
                float* k);

}  // namespace thermocline
