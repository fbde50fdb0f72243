#include "server/api/kv_json.h"

#include <string>
#include <utility>

#include "server/api/kv_names.h"

namespace thermocline {
namespace {

Json TiersJson(const ArenaStats& arena) {
  Json tiers = Json::object();
  for (const Named<Tier>& tier : kTierNames) {
    const auto i = static_cast<size_t>(tier.value);
    tiers[tier.name] = {{"pages", arena.tier_pages[i]},
                        {"bytes", arena.tier_bytes[i]},
                        {"page_bytes", arena.tier_page_bytes[i]}};
  }
  return tiers;
}

Json MovesJson(const EngineStats& stats) {
  Json ended = Json::object();
  for (const Named<Tier>& tier : kTierNames) {
    ended[tier.name] = stats.tiers.moves[static_cast<size_t>(tier.value)];
  }
  Json moves = Json::object();
  moves["ended"] = std::move(ended);
  moves["compactions"] = stats.tiers.compactions;
  moves["failed"] = {{"not_finite", stats.tiers.not_finite},
                     {"corrupt", stats.tiers.corrupt},
                     {"device", stats.tiers.device_errors},
                     {"refused", stats.tiers.refused}};
  moves["in_flight"] = stats.moves.num_moving;
  moves["seconds"] = stats.moves.seconds;
  moves["share_of_step_time"] =
      stats.steps.seconds > 0 ? stats.moves.seconds / stats.steps.seconds : 0.0;
  return moves;
}

// `formats`: those in force. `cold_kl`: null until they are the model's own.
Json CalibrationJson(const CalibrationStats& calibration) {
  Json json = Json::object();
  json["state"] = NameOf(kCalibrationNames, calibration.state);
  json["fraction"] = calibration.fraction;
  json["formats"] = calibration.state == CalibrationState::kNotNeeded    ? Json()
                    : calibration.state == CalibrationState::kCalibrated ? Json("calibrated")
                                                                         : Json("safe");
  json["cold_kl"] = calibration.cold_kl > 0 ? Json(calibration.cold_kl) : Json();
  return json;
}

Json StoreJson(const StoreUsage& store, const SchedulerStats& scheduler) {
  Json json = Json::object();
  json["pages"] = store.num_pages;
  json["memory"] = {{"pages", store.num_memory_pages}, {"bytes", store.memory_bytes}};
  json["disk"] = {{"pages", store.num_disk_pages}, {"bytes", store.disk_bytes}};
  json["pending_writes"] = store.num_pending_writes;
  json["hits"] = store.num_hits;
  json["misses"] = store.num_misses;
  json["evictions"] = store.num_evictions;
  json["write_errors"] = store.num_write_errors;
  json["damaged"] = store.num_damaged;
  json["disk_failing"] = store.disk_failing;
  json["restored_tokens"] = scheduler.restored_tokens;
  json["woken_pages"] = scheduler.num_woken;
  json["failed_wakes"] = scheduler.num_unwoken;
  return json;
}

// Only what is not zero: {"0": pages with an energy of 1, "-3": of 1/8 up to 1/4, "unseen": none}.
Json EnergyJson(const EnergyHistogram& histogram) {
  Json buckets = Json::object();
  for (size_t i = 0; i < histogram.buckets.size(); ++i) {
    if (histogram.buckets[i] > 0) {
      buckets[std::to_string(-static_cast<int>(i))] = histogram.buckets[i];
    }
  }
  if (histogram.num_unseen > 0) {
    buckets["unseen"] = histogram.num_unseen;
  }
  return buckets;
}

Json SequenceJson(const KvSnapshot::Sequence& sequence) {
  std::string pages;
  pages.reserve(sequence.pages.size());
  for (const Tier tier : sequence.pages) {
    pages += NameOf(kTierNames, tier).front();
  }
  return {{"id", sequence.label.empty() ? std::to_string(sequence.request) : sequence.label},
          {"choice", sequence.choice},
          {"tokens", sequence.num_tokens},
          {"pages", std::move(pages)}};
}

}  // namespace

Json KvJson(const ApiContext& context, const KvSnapshot& snapshot) {
  const EngineStats& stats = snapshot.stats;
  Json root = Json::object();
  root["object"] = "kv";
  root["policy"] = context.kv_policy;
  root["fidelity"] = NameOf(kKvFidelityNames, context.kv_fidelity);
  root["budget"] = context.kv_budget > 0 ? Json(context.kv_budget) : Json();
  root["page_tokens"] = snapshot.page_tokens;
  root["arena"] = {{"bytes", stats.arena.bytes},
                   {"free_bytes", stats.arena.free_bytes},
                   {"superblocks", stats.arena.num_superblocks},
                   {"empty_superblocks", stats.arena.num_empty_superblocks}};
  root["tiers"] = TiersJson(stats.arena);
  root["moves"] = MovesJson(stats);
  root["calibration"] = CalibrationJson(stats.calibration);
  root["store"] = stats.store.has_value() ? StoreJson(*stats.store, stats.scheduler) : Json();
  root["preemptions"] = stats.scheduler.num_preemptions;
  Json energy = Json::object();
  for (const Named<Tier>& tier : kTierNames) {
    energy[tier.name] = EnergyJson(snapshot.energy[static_cast<size_t>(tier.value)]);
  }
  root["energy_log2"] = std::move(energy);
  root["num_waiting"] = stats.scheduler.num_waiting;
  root["sequences"] = Json::array();
  for (const KvSnapshot::Sequence& sequence : snapshot.sequences) {
    root["sequences"].push_back(SequenceJson(sequence));
  }
  return root;
}

}  // namespace thermocline
