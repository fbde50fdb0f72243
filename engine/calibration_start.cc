#include "engine/calibration_start.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "engine/calibration/cold_formats.h"

namespace thermocline {
namespace {

bool HasBudget(const EngineConfig& config) {
  return config.kv_policy == KvPolicy::kAdaptive && config.kv_budget > 0;
}

// A budget is for sequences that are as long as may be: what it leaves them beyond cold pages buys
// better ones.
void SpendBudget(const KvLayout& layout, double budget, int max_model_len,
                 Calibration& calibration) {
  if (!calibration.measures_layers()) {
    return;
  }
  if (const auto ratio = ColdRatioOfBudget(layout, budget, max_model_len)) {
    WidenColdFormats(layout, calibration.layer_kl, *ratio, calibration.formats);
  }
}

std::string Summary(const KvLayout& layout, const Calibration& calibration) {
  const auto num_wide =
      std::count_if(calibration.formats.cold.begin(), calibration.formats.cold.end(),
                    [](Codec codec) { return codec != Codec::kTurbo3; });
  return fmt::format(
      "cold pages {:.2f}x smaller, mean KL {:.4f}, better than 3 bits in {} of {} layers",
      ColdRatio(layout, calibration.formats), calibration.cold_kl, num_wide, layout.num_layers);
}

}  // namespace

bool Cools(KvPolicy policy) { return policy != KvPolicy::kHot; }

CalibrationStart StartCalibration(const EngineConfig& config, const ContentHash& model_digest,
                                  int max_model_len, const KvLayout& layout,
                                  const ModelConfig& model, const Checkpoint& checkpoint,
                                  const Tokenizer& tokenizer) {
  CalibrationStart start{.in_force = {.formats = SafeKvFormats(layout)}};
  KvFormats& formats = start.in_force.formats;
  formats.key_bias = ReadKeyBias(model, checkpoint, layout, max_model_len);
  if (!Cools(config.kv_policy)) {
    return start;
  }
  LiveCalibration::Config measure{
      .layout = layout,
      .every_layer = config.calibrate_every_layer || HasBudget(config),
      .tokens = CalibrationTokens(tokenizer, layout.page_tokens, max_model_len)};
  measure.key = CalibrationKeyOf(model_digest, measure.tokens, layout);
  if (!config.calibration_dir.empty()) {
    measure.path = CalibrationPath(config.calibration_dir, measure.key);
  }
  if (HasBudget(config)) {
    measure.adapt = [layout, budget = config.kv_budget, max_model_len](Calibration& calibration) {
      SpendBudget(layout, budget, max_model_len, calibration);
    };
  }
  if (config.on_calibrated) {
    measure.on_end = [layout, tell = config.on_calibrated](const Status& status,
                                                           const std::string& keep_warning,
                                                           const Calibration& calibration) {
      std::string summary = status.ok() ? Summary(layout, calibration) : std::string();
      if (!keep_warning.empty()) {
        summary += "; not kept: " + keep_warning;
      }
      tell(status, summary);
    };
  }
  const bool may_use_kept = !measure.path.empty() && !config.calibrate_afresh;
  if (may_use_kept) {
    Result<Calibration> kept = ReadCalibration(measure.path, measure.key, layout);
    if (kept.ok() && (kept->measures_layers() || !measure.every_layer)) {
      kept->formats.key_bias = std::move(formats.key_bias);
      start.state = CalibrationState::kCalibrated;
      start.kept = *kept;
      start.in_force = *std::move(kept);
      if (measure.adapt) {
        measure.adapt(start.in_force);
      }
      return start;
    }
  }
  start.state = CalibrationState::kOff;
  if (!config.calibrate) {
    return start;
  }
  start.state = CalibrationState::kMeasuring;
  if (may_use_kept) {
    Result<Calibration> begun =
        ReadCalibration(LiveCalibration::PartialPath(measure.path), measure.key, layout);
    start.begun = begun.ok() ? *std::move(begun) : Calibration();
  }
  start.begun.formats = formats;
  start.to_measure = std::move(measure);
  return start;
}

}  // namespace thermocline
