#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/baselines/baseline.h"
#include "engine/engine_stats.h"
#include "kernels/base/check.h"
#include "kernels/page_format.h"
#include "scheduler/tier_policy.h"

// What the KV cache's choices are called on the command line, in requests and in answers: one table
// each.

namespace thermocline {

template <typename T>
struct Named {
  std::string_view name;
  T value;
};

// How pages cool, or what evicts tokens while none does: of EngineConfig.
struct KvPolicyChoice {
  KvPolicy policy = KvPolicy::kHot;
  std::optional<Baseline> baseline;
  constexpr bool operator==(const KvPolicyChoice&) const = default;
};
inline constexpr Named<KvPolicyChoice> kKvPolicyNames[] = {
    {"adaptive", {KvPolicy::kAdaptive}},
    {"hot", {KvPolicy::kHot}},
    {"warm", {KvPolicy::kWarm}},
    {"cold", {KvPolicy::kCold}},
    {"archive", {KvPolicy::kArchive}},
    {"streaming", {KvPolicy::kHot, Baseline::kStreaming}},
    {"h2o", {KvPolicy::kHot, Baseline::kH2o}},
    {"snapkv", {KvPolicy::kHot, Baseline::kSnapKv}}};
inline constexpr Named<KvFidelity> kKvFidelityNames[] = {{"exact", KvFidelity::kExact},
                                                         {"high", KvFidelity::kHigh},
                                                         {"balanced", KvFidelity::kBalanced},
                                                         {"max", KvFidelity::kMax}};
// The tiers that kernels read, hottest first. The first letter is a tier's own.
inline constexpr Named<Tier> kTierNames[] = {
    {"hot", Tier::kHot}, {"warm", Tier::kWarm}, {"cold", Tier::kCold}, {"archive", Tier::kArchive}};

inline constexpr Named<CalibrationState> kCalibrationNames[] = {
    {"not_needed", CalibrationState::kNotNeeded}, {"off", CalibrationState::kOff},
    {"measuring", CalibrationState::kMeasuring},  {"switching", CalibrationState::kSwitching},
    {"failed", CalibrationState::kFailed},        {"done", CalibrationState::kCalibrated}};

template <typename T, size_t size>
std::optional<T> FindNamed(const Named<T> (&table)[size], std::string_view name) {
  for (const Named<T>& named : table) {
    if (named.name == name) {
      return named.value;
    }
  }
  return std::nullopt;
}

template <typename T, size_t size>
std::string_view NameOf(const Named<T> (&table)[size], T value) {
  for (const Named<T>& named : table) {
    if (named.value == value) {
      return named.name;
    }
  }
  CHECK(false);  // a value without a name
  return {};
}

template <typename T, size_t size>
std::vector<std::string> AllNames(const Named<T> (&table)[size]) {
  std::vector<std::string> names;
  for (const Named<T>& named : table) {
    names.emplace_back(named.name);
  }
  return names;
}

}  // namespace thermocline
