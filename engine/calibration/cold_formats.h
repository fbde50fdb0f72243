#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "engine/kv/kv_cache.h"
#include "kernels/page_format.h"

// Which codec each layer has in cold pages. Layers climb a ladder of codecs, from 3 bits to 4-bit
// keys to int8; how far is a matter of what each layer loses at 3 bits (calibration.h) and of the
// bytes that there are. docs/design/calibration.md has the numbers.

namespace thermocline {

// How many times smaller a page of the tier is than a hot one.
double TierRatio(const KvLayout& layout, const KvFormats& formats, Tier tier);
double ColdRatio(const KvLayout& layout, const KvFormats& formats);

// Layers climb, the greatest gain by byte first: as far as the page's last arena unit holds it
// anyway, then until the divergence is expected to be `target_kl`, while the page stays
// `min_ratio` times smaller. layer_kl [num_layers]: the divergence with 3 bits in this layer alone;
// measured_kl: that of `formats`. True when something was changed.
bool ImproveColdFormats(const KvLayout& layout, std::span<const float> layer_kl, double measured_kl,
                        double target_kl, double min_ratio, KvFormats& formats);

// Where bytes are given anyhow: all layers climb to the next codec before one goes further, those
// that lose most first, while the page stays `min_ratio` times smaller.
void WidenColdFormats(const KvLayout& layout, std::span<const float> layer_kl, double min_ratio,
                      KvFormats& formats);

// How small a cold page has to be for a sequence of `num_tokens` to take the part `budget` of its
// all-hot bytes, once all that KvPolicy::kAdaptive may demote is cold: the page being written and
// one to come are hot, the first page and the recent window warm. Nothing when no cold page is
// small enough.
std::optional<double> ColdRatioOfBudget(const KvLayout& layout, double budget, int num_tokens);

std::string_view ColdCodecName(Codec codec);

}  // namespace thermocline
