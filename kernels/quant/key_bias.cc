#include "kernels/quant/key_bias.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/core/hadamard.h"

namespace thermocline {

KeyBias::KeyBias(const KvLayout& layout, std::span<const float> biases, const Rope& rope,
                 std::span<const float> signs, int max_positions)
    : num_pairs_(layout.head_dim / 2),
      num_pages_((max_positions + layout.page_tokens - 1) / layout.page_tokens) {
  const auto num_pairs = static_cast<size_t>(num_pairs_);
  const size_t head_dim = 2 * num_pairs;
  const auto num_heads = static_cast<size_t>(layout.num_kv_heads);
  const auto num_rotated = static_cast<int32_t>(rope.frequencies.size());
  CHECK(rope.frequencies.size() <= num_pairs && signs.size() == head_dim);
  CHECK(biases.size() == static_cast<size_t>(layout.num_layers) * num_heads * head_dim);
  std::vector<int32_t> elements;
  for (const bool second : {false, true}) {
    for (int32_t i = 0; i < num_pairs_; ++i) {
      const RopePair pair = i < num_rotated ? RopePairOf(rope.style, num_rotated, i)
                                            : RopePair{2 * i, 2 * i + 1};  // not rotated
      elements.push_back(second ? pair.second : pair.first);
    }
  }
  for (size_t head = 0; head < biases.size(); head += head_dim) {
    for (const int32_t element : elements) {
      numbers_.push_back(biases[head + static_cast<size_t>(element)]);
    }
  }
  for (size_t layer = 0; layer < static_cast<size_t>(layout.num_layers); ++layer) {
    const auto part = biases.subspan(layer * num_heads * head_dim, num_heads * head_dim);
    layers_.push_back(std::any_of(part.begin(), part.end(), [](float b) { return b != 0; }) ? 1
                                                                                            : 0);
  }
  AddAngles(layout, rope);
  signs_ = numbers_.size();
  numbers_.insert(numbers_.end(), signs.begin(), signs.end());
  elements_ = numbers_.size();
  for (const int32_t element : elements) {
    numbers_.push_back(std::bit_cast<float>(element));
  }
}

void KeyBias::AddAngles(const KvLayout& layout, const Rope& rope) {
  const auto num_pairs = static_cast<size_t>(num_pairs_);
  const auto angle = [&](int position, size_t pair) {
    return pair < rope.frequencies.size() ? position * static_cast<double>(rope.frequencies[pair])
                                          : 0.0;
  };
  const auto magnitude = [&](size_t pair) {
    return pair < rope.frequencies.size() ? static_cast<double>(rope.magnitude) : 1.0;
  };
  page_angles_ = numbers_.size();
  for (int page = 0; page < num_pages_; ++page) {
    const int position = page * layout.page_tokens;
    for (size_t i = 0; i < num_pairs; ++i) {
      numbers_.push_back(static_cast<float>(magnitude(i) * std::cos(angle(position, i))));
    }
    for (size_t i = 0; i < num_pairs; ++i) {
      numbers_.push_back(static_cast<float>(magnitude(i) * std::sin(angle(position, i))));
    }
  }
  token_angles_ = numbers_.size();
  for (const bool sine : {false, true}) {
    for (size_t i = 0; i < num_pairs; ++i) {
      for (int token = 0; token < layout.page_tokens; ++token) {
        const double theta = angle(token, i);
        numbers_.push_back(static_cast<float>(sine ? -std::sin(theta) : std::cos(theta)));
      }
    }
  }
}

KeyBiasView KeyBias::view(const std::byte* base) const {
  const auto* numbers = static_cast<const float*>(static_cast<const void*>(base));
  return {.num_pairs = num_pairs_,
          .num_pages = num_pages_,
          .layers = layers_.data(),
          .biases = numbers,
          .elements = static_cast<const int32_t*>(static_cast<const void*>(numbers + elements_)),
          .page_angles = numbers + page_angles_,
          .token_angles = numbers + token_angles_,
          .signs = numbers + signs_};
}

void AddKeyBias(const KvCacheView& kv, int layer, int kv_head, int first_position, float sign,
                float* k) {
  const KeyBiasView& bias = kv.key_bias;
  if (!bias.has(layer)) {
    return;
  }
  const KvLayout& layout = kv.layout;
  const int page = first_position / layout.page_tokens;
  CHECK(first_position % layout.page_tokens == 0 && page < bias.num_pages);
  const auto num_pairs = static_cast<size_t>(bias.num_pairs);
  const auto page_tokens = static_cast<size_t>(layout.page_tokens);
  const float* real = kv.key_bias_of(layer, kv_head);
  const float* imaginary = real + num_pairs;
  const float* cos = bias.page_angles + 2 * num_pairs * static_cast<size_t>(page);
  const float* sin = cos + num_pairs;
  std::vector<float> key(2 * num_pairs);
  for (size_t token = 0; token < page_tokens; ++token, k += key.size()) {
    for (size_t i = 0; i < num_pairs; ++i) {
      const float page_real = real[i] * cos[i] - imaginary[i] * sin[i];
      const float page_imaginary = real[i] * sin[i] + imaginary[i] * cos[i];
      const float token_cos = bias.token_angles[i * page_tokens + token];
      const float minus_sin = bias.token_angles[(num_pairs + i) * page_tokens + token];
      key[static_cast<size_t>(bias.elements[i])] =
          page_real * token_cos + page_imaginary * minus_sin;
      key[static_cast<size_t>(bias.elements[num_pairs + i])] =
          page_imaginary * token_cos - page_real * minus_sin;
    }
    RotateForward(key.data(), bias.signs, layout.head_dim);
    for (size_t i = 0; i < key.size(); ++i) {
      k[i] += sign * key[i];
    }
  }
}

}  // namespace thermocline
