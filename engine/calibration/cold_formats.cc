#include "engine/calibration/cold_formats.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/quant/page_codec.h"
#include "scheduler/tier_policy.h"

namespace thermocline {
namespace {

// Better codecs of a layer, and what they leave of its divergence at 3 bits: measured on the six
// most sensitive layers of SmolLM2-135M (0.14 to 0.68, together 0.34; 0.0008).
struct Rung {
  Codec codec;
  double part;
};
constexpr Rung kLadder[] = {
    {Codec::kTurbo3, 1.0}, {Codec::kTurboK4V3, 0.35}, {Codec::kInt8, 0.001}};

const Rung& RungOf(Codec codec) {
  return *std::find_if(std::begin(kLadder), std::end(kLadder),
                       [&](const Rung& rung) { return rung.codec == codec; });
}

// What the layers' divergences alone let expect of all of them.
double SumOfLayers(std::span<const float> layer_kl, const KvFormats& formats) {
  double sum = 0;
  for (size_t layer = 0; layer < layer_kl.size(); ++layer) {
    sum += static_cast<double>(layer_kl[layer]) * RungOf(formats.cold[layer]).part;
  }
  return sum;
}

}  // namespace

double TierRatio(const KvLayout& layout, const KvFormats& formats, Tier tier) {
  const std::array<uint32_t, kNumTiers> bytes = PageBytes(layout, formats);
  return static_cast<double>(bytes[static_cast<size_t>(Tier::kHot)]) /
         bytes[static_cast<size_t>(tier)];
}

double ColdRatio(const KvLayout& layout, const KvFormats& formats) {
  return TierRatio(layout, formats, Tier::kCold);
}

bool ImproveColdFormats(const KvLayout& layout, std::span<const float> layer_kl, double measured_kl,
                        double target_kl, double min_ratio, KvFormats& formats) {
  CHECK(layer_kl.size() == formats.cold.size());
  const double scale = measured_kl / std::max(SumOfLayers(layer_kl, formats), 1e-12);
  bool changed = false;
  for (;;) {
    double best_gain = 0;
    KvFormats best;
    const double ratio_now = ColdRatio(layout, formats);
    const bool wants_more = SumOfLayers(layer_kl, formats) * scale > target_kl;
    for (size_t layer = 0; layer < formats.cold.size(); ++layer) {
      const Rung* rung = &RungOf(formats.cold[layer]);
      const Rung* next = rung + 1;
      if (next == std::end(kLadder)) {
        continue;
      }
      KvFormats better = formats;
      better.cold[layer] = next->codec;
      const double ratio = ColdRatio(layout, better);
      const auto bytes = static_cast<double>(BlockLayoutOf(next->codec, layout).bytes -
                                             BlockLayoutOf(rung->codec, layout).bytes);
      const double gain = static_cast<double>(layer_kl[layer]) * (rung->part - next->part) / bytes;
      if (gain > best_gain && (ratio == ratio_now || (wants_more && ratio >= min_ratio))) {
        best_gain = gain;
        best = std::move(better);
      }
    }
    if (best.cold.empty()) {
      return changed;
    }
    formats = std::move(best);
    changed = true;
  }
}

void WidenColdFormats(const KvLayout& layout, std::span<const float> layer_kl, double min_ratio,
                      KvFormats& formats) {
  CHECK(layer_kl.size() == formats.cold.size());
  std::vector<size_t> layers(layer_kl.size());
  std::iota(layers.begin(), layers.end(), size_t{0});
  std::stable_sort(layers.begin(), layers.end(),
                   [&](size_t a, size_t b) { return layer_kl[a] > layer_kl[b]; });
  for (size_t rung = 0; rung + 1 < std::size(kLadder); ++rung) {
    for (const size_t layer : layers) {
      Codec& codec = formats.cold[layer];
      if (codec == kLadder[rung].codec) {
        codec = kLadder[rung + 1].codec;
        if (ColdRatio(layout, formats) < min_ratio) {
          codec = kLadder[rung].codec;
          return;
        }
      }
    }
  }
}

std::optional<double> ColdRatioOfBudget(const KvLayout& layout, double budget, int num_tokens) {
  constexpr double kHotPages = 2;
  const int window_pages = (kWindowTokens + layout.page_tokens - 1) / layout.page_tokens;
  const double num_warm = window_pages + 1;
  const double num_pages = static_cast<double>(num_tokens) / layout.page_tokens + 1;
  const double warm_bytes = 1 / TierRatio(layout, DefaultKvFormats(layout), Tier::kWarm);
  const double num_cold = num_pages - kHotPages - num_warm;
  const double left = budget * num_pages - kHotPages - num_warm * warm_bytes;  // in hot pages
  if (left <= 0 || num_cold <= 0) {
    return std::nullopt;
  }
  return num_cold / left;
}

std::string_view ColdCodecName(Codec codec) {
  switch (codec) {
    case Codec::kInt8:
      return "int8";
    case Codec::kTurboK4V3:
      return "K4V3";
    default:
      return "3 bit";
  }
}

}  // namespace thermocline
