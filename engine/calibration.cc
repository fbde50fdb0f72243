#include "engine/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "engine/calibration_pass.h"
#include "engine/calibration_text.h"
#include "engine/cold_formats.h"
#include "engine/query_moments.h"
#include "kernels/base/check.h"
#include "kernels/quant/query_factors.h"
#include "scheduler/tier_policy.h"

namespace thermocline {
namespace {

constexpr size_t kMaxTextTokens = 1024;  // before it is repeated
constexpr int kLayerPages = 16;          // of the shorter text that layers are measured on
constexpr int kMaxPasses = 5;  // over the whole text: hot, warm, cold, cold improved twice
constexpr size_t kMaxProbeLayers = 8;

// Pages read so far, of those that a whole calibration reads.
class Progress {
 public:
  Progress(int num_pages, const std::function<void(double)>& report)
      : num_pages_(num_pages), report_(report) {}
  void PageRead() {
    ++num_read_;
    Report(std::min(1.0, static_cast<double>(num_read_) / num_pages_));
  }
  void End() { Report(1); }

 private:
  void Report(double fraction) const {
    if (report_) {
      report_(fraction);
    }
  }

  int num_pages_;
  int num_read_ = 0;
  const std::function<void(double)>& report_;
};

// What all passes over one text share: the text and the distributions with hot pages.
class Calibrator {
 public:
  Calibrator(Transformer& model, Device& device, const KvLayout& layout,
             std::span<const TokenId> tokens, Progress& progress)
      : model_(model),
        device_(device),
        layout_(layout),
        tokens_(tokens),
        num_pages_(static_cast<int>(tokens.size()) / layout.page_tokens),
        first_page_(kWindowTokens / layout.page_tokens + 2),
        progress_(progress) {
    CHECK(num_pages_ > first_page_);
  }

  // The pass with hot pages: distributions, mean keys, probe layers.
  Status ReadHot(Calibration& calibration) {
    Result<std::unique_ptr<CalibrationPass>> pass = NewPass(calibration.formats);
    if (!pass.ok()) {
      return pass.status();
    }
    std::vector<double> copy_scores(static_cast<size_t>(layout_.num_layers), 0.0);
    for (int page = 0; page < num_pages_; ++page) {
      std::vector<float> energy(static_cast<size_t>(layout_.num_layers) *
                                static_cast<size_t>(page + 1) *
                                static_cast<size_t>(layout_.num_kv_heads));
      Result<std::vector<float>> read = (*pass)->ReadPage(tokens_, page, Tier::kHot, energy);
      if (!read.ok()) {
        return read.status();
      }
      AddCopyScores(energy, page, copy_scores);
      hot_.push_back(page >= first_page_ ? *std::move(read) : std::vector<float>());
      progress_.PageRead();
    }
    calibration.formats.mean_keys = (*pass)->MeanKeys(num_pages_);
    calibration.probe_layers = Greatest(copy_scores, kMaxProbeLayers);
    return {};
  }

  // The same, with the moments of queries.
  Status ReadHotAndQueries(Calibration& calibration) {
    QueryMoments moments(layout_, model_.config().num_heads);
    model_.set_attention_observer([&](int layer, Tensor qkv, const BatchView& /*batch*/,
                                      const KvCacheView& /*kv*/) { moments.Observe(layer, qkv); });
    Status read = ReadHot(calibration);
    model_.set_attention_observer({});
    calibration.formats.query_factors = FactorQueryMoments(moments.Moments(), layout_.head_dim);
    return read;
  }

  // Mean KL with the settled pages in `tier`.
  Result<double> Measure(const KvFormats& formats, Tier tier) {
    Result<std::unique_ptr<CalibrationPass>> pass = NewPass(formats);
    if (!pass.ok()) {
      return pass.status();
    }
    double sum = 0;
    size_t count = 0;
    for (int page = 0; page < num_pages_; ++page) {
      const Result<std::vector<float>> read = (*pass)->ReadPage(tokens_, page, tier);
      if (!read.ok()) {
        return read.status();
      }
      const std::vector<float>& hot = hot_[static_cast<size_t>(page)];
      for (size_t i = 0; i < hot.size(); ++i) {
        sum += static_cast<double>(std::exp(hot[i]) * (hot[i] - (*read)[i]));
      }
      count += hot.size() / static_cast<size_t>(model_.config().vocab_size);
      progress_.PageRead();
    }
    return sum / static_cast<double>(count);
  }

 private:
  Result<std::unique_ptr<CalibrationPass>> NewPass(const KvFormats& formats) {
    return CalibrationPass::Create(model_, device_, layout_, formats, num_pages_);
  }

  // How strongly the repeated page attends to where it stood first.
  void AddCopyScores(std::span<const float> energy, int page, std::vector<double>& scores) const {
    const int half = num_pages_ / 2;
    if (page < half) {
      return;
    }
    const auto num_heads = static_cast<size_t>(layout_.num_kv_heads);
    for (size_t layer = 0; layer < scores.size(); ++layer) {
      const size_t at =
          (layer * static_cast<size_t>(page + 1) + static_cast<size_t>(page - half)) * num_heads;
      const auto heads = energy.subspan(at, num_heads);
      scores[layer] += static_cast<double>(*std::max_element(heads.begin(), heads.end()));
    }
  }

  static std::vector<int> Greatest(const std::vector<double>& scores, size_t count) {
    std::vector<int> layers(scores.size());
    std::iota(layers.begin(), layers.end(), 0);
    std::stable_sort(layers.begin(), layers.end(), [&](int a, int b) {
      return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
    });
    layers.resize(std::min(layers.size(), count));
    std::sort(layers.begin(), layers.end());
    return layers;
  }

  Transformer& model_;
  Device& device_;
  KvLayout layout_;
  std::span<const TokenId> tokens_;
  int num_pages_;
  int first_page_;  // that reads a page outside the window
  Progress& progress_;
  std::vector<std::vector<float>> hot_;  // by page
};

// The start of the text and the same of its copy.
std::vector<TokenId> Shortened(std::span<const TokenId> tokens, size_t page_tokens) {
  const size_t half = tokens.size() / 2;
  const size_t kept = std::min(half, kLayerPages / 2 * page_tokens);
  std::vector<TokenId> fewer(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(kept));
  fewer.insert(fewer.end(), tokens.begin() + static_cast<std::ptrdiff_t>(half),
               tokens.begin() + static_cast<std::ptrdiff_t>(half + kept));
  return fewer;
}

// Each layer alone at 3 bits, all others hot.
Status MeasureLayers(Transformer& model, Device& device, const KvLayout& layout,
                     std::span<const TokenId> tokens, Progress& progress,
                     Calibration& calibration) {
  Calibrator calibrator(model, device, layout, tokens, progress);
  Calibration of_fewer{.formats = calibration.formats};
  RETURN_IF_ERROR(calibrator.ReadHot(of_fewer));
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    KvFormats formats = calibration.formats;
    std::fill(formats.cold.begin(), formats.cold.end(), Codec::kNative);
    formats.cold[static_cast<size_t>(layer)] = Codec::kTurbo3;
    const Result<double> kl = calibrator.Measure(formats, Tier::kCold);
    if (!kl.ok()) {
      return kl.status();
    }
    calibration.layer_kl.push_back(static_cast<float>(*kl));
  }
  return {};
}

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

Result<Calibration> Calibrate(Transformer& model, Device& device, const KvLayout& layout,
                              KvFormats formats, std::span<const TokenId> tokens, bool every_layer,
                              const std::function<void(double)>& on_progress) {
  Calibration calibration{.formats = std::move(formats)};
  if (static_cast<int>(tokens.size()) / layout.page_tokens <=
      kWindowTokens / layout.page_tokens + 2) {
    return calibration;  // no page of such short sequences ever cools
  }
  const auto page_tokens = static_cast<size_t>(layout.page_tokens);
  const std::vector<TokenId> fewer = Shortened(tokens, page_tokens);
  const auto num_pages = static_cast<int>(tokens.size() / page_tokens);
  Progress progress(kMaxPasses * num_pages +
                        (layout.num_layers + 1) * static_cast<int>(fewer.size() / page_tokens),
                    on_progress);
  Calibrator calibrator(model, device, layout, tokens, progress);
  RETURN_IF_ERROR(calibrator.ReadHotAndQueries(calibration));
  const auto measure = [&](Tier tier, double& kl) {
    Result<double> measured = calibrator.Measure(calibration.formats, tier);
    if (measured.ok()) {
      kl = *measured;
    }
    return measured.status();
  };
  RETURN_IF_ERROR(measure(Tier::kWarm, calibration.warm_kl));
  RETURN_IF_ERROR(measure(Tier::kCold, calibration.uniform_kl));
  calibration.cold_kl = calibration.uniform_kl;
  if (!every_layer && calibration.uniform_kl <= kColdKlTarget) {
    progress.End();
    return calibration;
  }
  RETURN_IF_ERROR(MeasureLayers(model, device, layout, fewer, progress, calibration));
  // The prediction is rough, so what it leads to is measured, and gone on from once.
  for (int round = 0;
       round < 2 && ImproveColdFormats(layout, calibration.layer_kl, calibration.cold_kl,
                                       kColdKlTarget, kMinColdRatio, calibration.formats);
       ++round) {
    RETURN_IF_ERROR(measure(Tier::kCold, calibration.cold_kl));
  }
  progress.End();
  return calibration;
}

std::string FormatCalibration(const Calibration& calibration, const KvLayout& layout) {
  std::string text;
  if (calibration.measures_layers()) {
    text += "layer  alone at 3 bits, KL (nats)  cold codec  watched\n";
    const float greatest =
        *std::max_element(calibration.layer_kl.begin(), calibration.layer_kl.end());
    for (size_t layer = 0; layer < calibration.layer_kl.size(); ++layer) {
      const float kl = calibration.layer_kl[layer];
      const bool watched = std::count(calibration.probe_layers.begin(),
                                      calibration.probe_layers.end(), static_cast<int>(layer)) > 0;
      const auto width = static_cast<int>(16 * kl / std::max(greatest, 1e-12F));
      text += fmt::format("{:5}  {:9.6f} {:<18}  {:<10}  {}\n", layer, kl,
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
