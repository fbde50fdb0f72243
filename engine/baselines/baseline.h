#pragma once

#include <cstdint>

namespace thermocline {

// The eviction baselines that tiers are compared with: `--kv-policy streaming | h2o | snapkv`, see
// eviction_rules.h. All that the product knows of this folder, beside the loader, which puts an
// EvictingRunner where one of them was asked for.
enum class Baseline : uint8_t { kStreaming, kH2o, kSnapKv };

}  // namespace thermocline
