#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/model/transformer.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// What coding its pages does to one model, measured on text that we ship, and what follows: the
// mean keys, each layer's cold codec and the layers whose attention the tier policy watches.
// Divergences are mean KL of the next-token distribution to that with all pages hot, in nats, with
// every page outside the first and the recent window in the tier before it is read.
struct Calibration {
  KvFormats formats;
  std::vector<int> probe_layers;  // the best at finding copied text, ascending; at most 8
  double warm_kl = 0;
  double cold_kl = 0;           // of `formats`
  double uniform_kl = 0;        // of 3 bits in all layers
  std::vector<float> layer_kl;  // [num_layers]: 3 bits in this layer alone; empty: not measured

  bool measures_layers() const { return !layer_kl.empty(); }
};

// All-cold divergence that layers get better codecs for, as long as a cold page stays
// kMinColdRatio times smaller than a hot one.
inline constexpr double kColdKlTarget = 0.0025;
inline constexpr double kMinColdRatio = 4.7;

// The text: some prose, lists and code, then all of it again, so that its second half is predicted
// by copying from pages that have cooled. Whole pages.
std::vector<TokenId> CalibrationTokens(const Tokenizer& tokenizer, int page_tokens,
                                       int max_model_len);

// `formats`: the model's own (its key bias), with 3 bits in all layers.
// `every_layer`: measures each layer even when the target holds without it: num_layers passes more.
// `on_progress` gets a fraction in [0, 1].
Result<Calibration> Calibrate(Transformer& model, Device& device, const KvLayout& layout,
                              KvFormats formats, std::span<const TokenId> tokens, bool every_layer,
                              const std::function<void(double)>& on_progress);

// For people: a table of the layers and what it all comes to.
std::string FormatCalibration(const Calibration& calibration, const KvLayout& layout);

}  // namespace thermocline
