#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/kv/kv_cache.h"
#include "engine/text/tokenizer.h"

namespace thermocline {

// What coding its pages does to one model, measured on text that we ship, and what follows: the
// mean keys, each layer's cold codec, what keys are rounded for and the layers whose attention the
// tier policy watches. Calibrator measures it. Divergences are mean KL of the next-token
// distribution to that with all pages hot, in nats, with every page outside the first and the
// recent window in the tier before it is read.
struct Calibration {
  KvFormats formats;
  std::vector<int> probe_layers;  // the best at finding copied text, ascending; at most 8
  double warm_kl = 0;             // 0: not measured; so are the next two
  double cold_kl = 0;             // what `formats` cost
  double uniform_kl = 0;          // what 3 bits in all layers would cost
  // [num_layers]: 3 bits in this layer alone. Empty: no layer was measured.
  std::vector<float> layer_kl;
  std::vector<uint8_t> layer_is_measured;  // as layer_kl; 0: by the rule, see PredictUnmeasured

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

// For people: a table of the layers and what it all comes to.
std::string FormatCalibration(const Calibration& calibration, const KvLayout& layout);

}  // namespace thermocline
