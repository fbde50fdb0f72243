#include "server/api/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <string_view>
#include <utility>

#include "server/api/kv_names.h"

namespace thermocline {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// One sample: the value of the family's second label, if it has one, and the value.
struct Sample {
  std::string_view label;
  double value = 0;
};

class FamilyList {
 public:
  explicit FamilyList(std::string model_name) : model_name_(std::move(model_name)) {}

  void Gauge(const std::string& name, const std::string& help, double value) {
    Add(MetricType::Gauge, name, help, "", {{"", value}});
  }
  // The text format wants counters to end in `_total`.
  void Counter(const std::string& name, const std::string& help, double value) {
    Add(MetricType::Counter, name, help, "", {{"", value}});
  }
  void Add(MetricType type, const std::string& name, const std::string& help,
           const std::string& label_name, const std::vector<Sample>& samples) {
    MetricFamily family{.name = "thermocline_" + name, .help = help, .type = type, .metric = {}};
    for (const Sample& sample : samples) {
      ClientMetric metric;
      metric.label.push_back({"model_name", model_name_});
      if (!label_name.empty()) {
        metric.label.push_back({label_name, std::string(sample.label)});
      }
      (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = sample.value;
      family.metric.push_back(std::move(metric));
    }
    families_.push_back(std::move(family));
  }
  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  std::string model_name_;
  std::vector<MetricFamily> families_;
};

std::vector<Sample> ByTier(const std::array<uint64_t, kNumTiers>& values) {
  std::vector<Sample> samples;
  for (const Named<Tier>& tier : kTierNames) {
    samples.push_back({tier.name, static_cast<double>(values[static_cast<size_t>(tier.value)])});
  }
  return samples;
}

double Count(uint64_t count) { return static_cast<double>(count); }

void AddRequests(const EngineStats& stats, FamilyList& list) {
  list.Gauge("num_requests_running", "Sequences that hold pages.", stats.scheduler.num_running);
  list.Gauge("num_requests_waiting", "Sequences that wait for room.", stats.scheduler.num_waiting);
  list.Counter("num_preemptions_total", "Sequences that lost their pages to others and wait again.",
               Count(stats.scheduler.num_preemptions));
  list.Counter("prompt_tokens_total", "Tokens of admitted prompts.",
               Count(stats.steps.prompt_tokens));
  list.Counter("generation_tokens_total", "Tokens generated.", Count(stats.steps.generated_tokens));
  list.Counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
               Count(stats.scheduler.prefix_query_tokens));
  list.Counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
               Count(stats.scheduler.prefix_hit_tokens));
  list.Counter("steps_total", "Forward passes.", Count(stats.steps.num_steps));
  list.Counter("step_seconds_total", "Seconds that steps took.", stats.steps.seconds);
}

void AddKvCache(const EngineStats& stats, FamilyList& list) {
  list.Gauge("kv_arena_bytes", "Bytes of the KV cache.", Count(stats.arena.bytes));
  list.Gauge("kv_arena_free_bytes", "Bytes of the KV cache in no page.",
             Count(stats.arena.free_bytes));
  list.Gauge("kv_cached_pages", "Pages that only the prefix cache holds.",
             Count(stats.arena.num_cached_pages));
  list.Add(MetricType::Gauge, "kv_pages", "Pages in use or cached.", "tier",
           ByTier(stats.arena.tier_pages));
  list.Add(MetricType::Gauge, "kv_bytes", "Bytes of pages in use or cached.", "tier",
           ByTier(stats.arena.tier_bytes));
  list.Add(MetricType::Counter, "kv_moves_total", "Page moves that ended well, by tier moved to.",
           "tier", ByTier(stats.tiers.moves));
  list.Counter("kv_compactions_total", "Of the moves, those inside one tier.",
               Count(stats.tiers.compactions));
  list.Add(MetricType::Counter, "kv_move_failures_total", "Page moves that failed.", "reason",
           {{"not_finite", Count(stats.tiers.not_finite)},
            {"corrupt", Count(stats.tiers.corrupt)},
            {"device", Count(stats.tiers.device_errors)},
            {"refused", Count(stats.tiers.refused)}});
  list.Gauge("kv_calibration_fraction", "How far measuring the model's page formats is, 0 to 1.",
             stats.calibration.fraction);
  list.Gauge("kv_calibrated", "1: cold pages have the model's own formats; 0: those safe for any.",
             stats.calibration.state == CalibrationState::kCalibrated ? 1 : 0);
  list.Gauge("kv_moves_in_flight", "Page moves that have not ended.",
             Count(stats.moves.num_moving));
  list.Counter("kv_move_seconds_total", "Seconds that copying pages took.", stats.moves.seconds);
}

void AddStore(const EngineStats& stats, FamilyList& list) {
  if (!stats.store.has_value()) {
    return;
  }
  const StoreUsage& store = *stats.store;
  list.Counter("prefix_cache_restored_tokens_total",
               "Prompt tokens whose pages came from the store outside the arena.",
               Count(stats.scheduler.restored_tokens));
  list.Counter("kv_woken_pages_total", "Archived pages that got their exact bytes back.",
               Count(stats.scheduler.num_woken));
  list.Counter("kv_failed_wakes_total", "Times that an archived page could not be woken.",
               Count(stats.scheduler.num_unwoken));
  list.Gauge("kv_store_pages", "Pages that the store has.", Count(store.num_pages));
  list.Add(MetricType::Gauge, "kv_store_bytes", "Bytes of the store's pages.", "place",
           {{"memory", Count(store.memory_bytes)}, {"disk", Count(store.disk_bytes)}});
  list.Gauge("kv_store_pending_writes", "Files that are still to be written or removed.",
             Count(store.num_pending_writes));
  list.Counter("kv_store_hits_total", "Pages read back.", Count(store.num_hits));
  list.Counter("kv_store_evictions_total", "Pages lost to make room.", Count(store.num_evictions));
  list.Add(MetricType::Counter, "kv_store_failures_total", "What went wrong.", "reason",
           {{"write", Count(store.num_write_errors)}, {"damaged", Count(store.num_damaged)}});
}

}  // namespace

std::vector<MetricFamily> EngineMetrics::Collect() const {
  const EngineStats stats = context_.service.stats();
  FamilyList list(context_.model_names.front());
  AddRequests(stats, list);
  AddKvCache(stats, list);
  AddStore(stats, list);
  return list.Take();
}

HttpResponse MetricsResponse(const ApiContext& context) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = prometheus::TextSerializer().Serialize(EngineMetrics(context).Collect());
  return response;
}

}  // namespace thermocline
