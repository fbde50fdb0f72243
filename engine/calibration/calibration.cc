#include "engine/calibration/calibration.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/calibration/calibration_text.h"
#include "engine/calibration/cold_formats.h"

namespace thermocline {
namespace {

constexpr size_t kMaxTextTokens = 1024;  // before it is repeated

}  // namespace

std::vector<TokenId> CalibrationTokens(const Tokenizer& tokenizer, int page_tokens,
                                       int max_model_len) {
  std::vector<TokenId> tokens = tokenizer.Encode(kCalibrationText, SpecialTokens::kPlain);
  const size_t half = std::min(
      {tokens.size(), kMaxTextTokens, static_cast<size_t>(std::max(0, max_model_len)) / 2});
  tokens.resize(half / static_cast<size_t>(page_tokens) * static_cast<size_t>(page_tokens));
  const std::vector<TokenId> copy = tokens;
  tokens.insert(tokens.end(), copy.begin(), copy.end());
  return tokens;
}

std::string FormatCalibration(const Calibration& calibration, const KvLayout& layout) {
  std::string text;
  if (calibration.measures_layers()) {
    text += "layer  alone at 3 bits, KL (nats)  cold codec  watched  (~: by the rule)\n";
    const float greatest =
        *std::max_element(calibration.layer_kl.begin(), calibration.layer_kl.end());
    for (size_t layer = 0; layer < calibration.layer_kl.size(); ++layer) {
      const float kl = calibration.layer_kl[layer];
      const bool watched = std::count(calibration.probe_layers.begin(),
                                      calibration.probe_layers.end(), static_cast<int>(layer)) > 0;
      const auto width = static_cast<int>(16 * kl / std::max(greatest, 1e-12F));
      const bool is_measured = calibration.layer_is_measured[layer] != 0;
      text += fmt::format("{:5} {}{:9.6f} {:<18}  {:<10}  {}\n", layer, is_measured ? ' ' : '~', kl,
                          std::string(static_cast<size_t>(std::max(width, 0)), '#'),
                          ColdCodecName(calibration.formats.cold[layer]), watched ? "yes" : "");
    }
  }
  const auto ratio = [&](Tier tier) { return TierRatio(layout, calibration.formats, tier); };
  text += fmt::format("all pages warm: {:.2f}x smaller, mean KL {:.6f} nats\n", ratio(Tier::kWarm),
                      calibration.warm_kl);
  text += fmt::format(
      "all pages cold: {:.2f}x smaller, mean KL {:.6f} nats ({:.6f} with 3 bits in "
      "every layer; target {})\n",
      ratio(Tier::kCold), calibration.cold_kl, calibration.uniform_kl, kColdKlTarget);
  return text;
}

}  // namespace thermocline
