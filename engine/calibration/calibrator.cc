#include "engine/calibration/calibrator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/calibration/cold_formats.h"
#include "kernels/base/check.h"
#include "kernels/quant/query_factors.h"

namespace thermocline {
namespace {

constexpr int kShortPages = 16;  // in the text that layers are measured on
constexpr int kMaxImprovements = 2;
constexpr int kMaxMeasuredLayers = 16;  // unless every one is asked for
constexpr size_t kMaxProbeLayers = 8;

// The start of the text and the same of its copy.
std::vector<TokenId> Shortened(std::span<const TokenId> tokens, size_t page_tokens) {
  const size_t half = tokens.size() / 2;
  const size_t kept = std::min(half, kShortPages / 2 * page_tokens);
  std::vector<TokenId> fewer(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(kept));
  fewer.insert(fewer.end(), tokens.begin() + static_cast<std::ptrdiff_t>(half),
               tokens.begin() + static_cast<std::ptrdiff_t>(half + kept));
  return fewer;
}

// The greatest first.
template <typename T>
std::vector<int> Ranked(const std::vector<T>& scores) {
  std::vector<int> layers(scores.size());
  std::iota(layers.begin(), layers.end(), 0);
  std::stable_sort(layers.begin(), layers.end(), [&](int a, int b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  return layers;
}

// What layers that were not measured lose: by the rule, in the proportion of those that were (the
// mean of their ratios' logarithms).
void PredictUnmeasured(const std::vector<double>& rule, Calibration& calibration) {
  double sum = 0;
  int count = 0;
  for (size_t layer = 0; layer < rule.size(); ++layer) {
    const double kl = static_cast<double>(calibration.layer_kl[layer]);
    if (calibration.layer_is_measured[layer] != 0 && kl > 0 && rule[layer] > 0) {
      sum += std::log(kl / rule[layer]);
      ++count;
    }
  }
  const double ratio = count > 0 ? std::exp(sum / count) : 0;
  for (size_t layer = 0; layer < rule.size(); ++layer) {
    if (calibration.layer_is_measured[layer] == 0) {
      calibration.layer_kl[layer] = static_cast<float>(rule[layer] * ratio);
    }
  }
}

}  // namespace

Result<std::unique_ptr<Calibrator>> Calibrator::Create(Transformer& model, Device& device,
                                                       const KvLayout& layout, Calibration begun,
                                                       std::vector<TokenId> tokens,
                                                       bool every_layer) {
  std::unique_ptr<Calibrator> calibrator(
      new Calibrator(model, device, layout, std::move(begun), std::move(tokens), every_layer));
  if (calibrator->done()) {
    return calibrator;
  }
  Result<std::unique_ptr<CalibrationPass>> pass =
      CalibrationPass::Create(model, device, layout, calibrator->calibration_.formats,
                              static_cast<int>(calibrator->hot_.size()));
  if (!pass.ok()) {
    return pass.status();
  }
  calibrator->pass_ = *std::move(pass);
  return calibrator;
}

Calibrator::Calibrator(Transformer& model, Device& device, const KvLayout& layout,
                       Calibration begun, std::vector<TokenId> tokens, bool every_layer)
    : model_(model),
      device_(device),
      layout_(layout),
      tokens_(std::move(tokens)),
      short_tokens_(Shortened(tokens_, static_cast<size_t>(layout.page_tokens))),
      every_layer_(every_layer),
      first_page_(CalibrationPass::FirstCooledPage(layout.page_tokens)),
      calibration_(std::move(begun)),
      queries_(layout, model.config().num_heads),
      host_qkv_(device),
      hot_(tokens_.size() / static_cast<size_t>(layout.page_tokens)),
      short_hot_(short_tokens_.size() / static_cast<size_t>(layout.page_tokens)),
      copy_scores_(static_cast<size_t>(layout.num_layers), 0.0),
      rule_(static_cast<size_t>(layout.num_layers), 0.0) {
  const auto alike = std::mismatch(short_tokens_.begin(), short_tokens_.end(), tokens_.begin());
  first_short_page_ = std::min(
      first_page_, static_cast<int>(alike.first - short_tokens_.begin()) / layout.page_tokens);
  calibration_.layer_kl.resize(static_cast<size_t>(layout.num_layers), 0.0F);
  calibration_.layer_is_measured.resize(static_cast<size_t>(layout.num_layers), 0);
  if (static_cast<int>(short_hot_.size()) <= first_page_) {
    phase_ = Phase::kDone;  // no page of such short sequences ever cools
    calibration_.layer_kl.clear();
    calibration_.layer_is_measured.clear();
  }
}

bool Calibrator::is_short() const {
  return phase_ == Phase::kShortHot || phase_ == Phase::kRule || phase_ == Phase::kLayer;
}
std::span<const TokenId> Calibrator::text() const { return is_short() ? short_tokens_ : tokens_; }
int Calibrator::num_text_pages() const {
  return static_cast<int>((is_short() ? short_hot_ : hot_).size());
}

Tier Calibrator::tier() const {
  switch (phase_) {
    case Phase::kHot:
    case Phase::kShortHot:
      return Tier::kHot;
    case Phase::kWarm:
      return Tier::kWarm;
    default:
      return Tier::kCold;
  }
}

double Calibrator::fraction() const {
  // What is read when all there is to measure is measured.
  const int num_pages = static_cast<int>(hot_.size());
  const int cooled = num_pages - first_page_;
  const int num_layers =
      every_layer_ ? layout_.num_layers : std::min(layout_.num_layers, kMaxMeasuredLayers);
  const int all = num_pages + (2 + kMaxImprovements) * cooled +
                  (1 + num_layers) * (static_cast<int>(short_hot_.size()) - first_short_page_);
  const double most = std::min(all * layout_.page_tokens, kMaxTokensRead);
  return done() ? 1 : std::min(1.0, num_tokens_read_ / most);
}

Status Calibrator::Finish() {
  while (!done()) {
    RETURN_IF_ERROR(Step(layout_.page_tokens));
  }
  return {};
}

Status Calibrator::Step(int max_tokens) {
  CHECK(!done() && max_tokens > 0);
  if (phase_ == Phase::kRule) {
    RETURN_IF_ERROR(pass_->AddKeyLosses(page_, moments_, rule_));
    token_ = layout_.page_tokens;
  } else {
    RETURN_IF_ERROR(ReadChunk(max_tokens));
  }
  return token_ == layout_.page_tokens ? EndPage() : Status();
}

Status Calibrator::ReadChunk(int max_tokens) {
  if (token_ == 0) {
    RETURN_IF_ERROR(pass_->BeginPage(page_, tier()));
    read_.clear();
    energy_.assign(phase_ == Phase::kHot
                       ? static_cast<size_t>(layout_.num_layers) * static_cast<size_t>(page_ + 1) *
                             static_cast<size_t>(layout_.num_kv_heads)
                       : 0,
                   0.0F);
  }
  const int count = std::min({max_tokens, model_.max_tokens(), layout_.page_tokens - token_});
  Status observed;
  if (phase_ == Phase::kHot) {
    model_.set_attention_observer([&](int layer, Tensor qkv, const BatchView& /*batch*/,
                                      const KvCacheView& /*kv*/, Stream& stream) {
      if (observed.ok()) {
        observed = ObserveQueries(layer, qkv, stream);
      }
    });
  }
  chunk_energy_.resize(energy_.size());
  Result<std::vector<float>> read = pass_->ReadChunk(text(), page_, token_, count, chunk_energy_);
  if (phase_ == Phase::kHot) {
    model_.set_attention_observer({});
  }
  RETURN_IF_ERROR(std::move(observed));
  if (!read.ok()) {
    return read.status();
  }
  // An energy is the greatest over queries, so that chunks make the page's.
  for (size_t i = 0; i < energy_.size(); ++i) {
    energy_[i] = std::max(energy_[i], chunk_energy_[i]);
  }
  read_.insert(read_.end(), read->begin(), read->end());
  token_ += count;
  num_tokens_read_ += count;
  return {};
}

Status Calibrator::ObserveQueries(int layer, Tensor qkv, Stream& stream) {
  const Result<const float*> rows =
      host_qkv_.Read(qkv.f32(), static_cast<size_t>(qkv.num_elements()), stream);
  RETURN_IF_ERROR(stream.Sync());
  if (!rows.ok()) {
    return rows.status();
  }
  queries_.Observe(layer, *rows, qkv.dim(0), qkv.dim(1));
  return {};
}

Status Calibrator::EndPage() {
  token_ = 0;
  if (phase_ == Phase::kHot || phase_ == Phase::kShortHot) {
    EndHotPage();
  } else if (phase_ != Phase::kRule) {
    EndMeasuredPage();
  }
  return ++page_ == num_text_pages() ? EndPass() : Status();
}

void Calibrator::EndHotPage() {
  if (phase_ == Phase::kHot) {
    AddCopyScores();
  }
  if (page_ >= first_page_) {
    (is_short() ? short_hot_ : hot_)[static_cast<size_t>(page_)] = std::move(read_);
  }
}

// How strongly the repeated page attends to where it stood first.
void Calibrator::AddCopyScores() {
  const int half = num_text_pages() / 2;
  if (page_ < half) {
    return;
  }
  const auto num_heads = static_cast<size_t>(layout_.num_kv_heads);
  for (size_t layer = 0; layer < copy_scores_.size(); ++layer) {
    const size_t at =
        (layer * static_cast<size_t>(page_ + 1) + static_cast<size_t>(page_ - half)) * num_heads;
    const auto heads = std::span(energy_).subspan(at, num_heads);
    copy_scores_[layer] += static_cast<double>(*std::max_element(heads.begin(), heads.end()));
  }
}

void Calibrator::EndMeasuredPage() {
  const std::vector<float>& hot = (is_short() ? short_hot_ : hot_)[static_cast<size_t>(page_)];
  for (size_t i = 0; i < hot.size(); ++i) {
    kl_sum_ += static_cast<double>(std::exp(hot[i]) * (hot[i] - read_[i]));
  }
  num_rows_ += hot.size() / static_cast<size_t>(model_.config().vocab_size);
}

double Calibrator::TakeKl() {
  const double kl = std::exchange(kl_sum_, 0) / static_cast<double>(num_rows_);
  num_rows_ = 0;
  ++num_results_;
  return kl;
}

Status Calibrator::Begin(Phase phase) {
  phase_ = phase;
  KvFormats formats = calibration_.formats;
  switch (phase) {
    case Phase::kShortHot:
      page_ = first_short_page_;
      break;
    case Phase::kRule:
      page_ = first_page_;
      std::fill(formats.cold.begin(), formats.cold.end(), Codec::kTurbo3);
      break;
    case Phase::kLayer:
      page_ = first_page_;
      std::fill(formats.cold.begin(), formats.cold.end(), Codec::kNative);
      formats.cold[static_cast<size_t>(layers_.back())] = Codec::kTurbo3;
      break;
    case Phase::kImproved:
      page_ = first_short_page_;  // what follows is still the short text's
      break;
    default:
      page_ = first_page_;
  }
  return phase == Phase::kDone ? Status() : pass_->Restart(std::move(formats));
}

Status Calibrator::EndPass() {
  switch (phase_) {
    case Phase::kHot: {
      moments_ = queries_.Moments();
      Result<std::vector<float>> mean_keys = pass_->MeanKeys(num_text_pages());
      if (!mean_keys.ok()) {
        return mean_keys.status();
      }
      calibration_.formats.mean_keys = *std::move(mean_keys);
      calibration_.formats.cold = DefaultKvFormats(layout_).cold;
      calibration_.formats.query_factors = FactorQueryMoments(moments_, layout_.head_dim);
      std::vector<int> layers = Ranked(copy_scores_);
      layers.resize(std::min(layers.size(), kMaxProbeLayers));
      std::sort(layers.begin(), layers.end());
      calibration_.probe_layers = std::move(layers);
      ++num_results_;
      if (calibration_.warm_kl <= 0) {
        return Begin(Phase::kWarm);
      }
      return calibration_.uniform_kl > 0 ? AfterUniform() : Begin(Phase::kUniform);
    }
    case Phase::kWarm:
      calibration_.warm_kl = TakeKl();
      return calibration_.uniform_kl > 0 ? AfterUniform() : Begin(Phase::kUniform);
    case Phase::kUniform:
      calibration_.uniform_kl = TakeKl();
      return AfterUniform();
    case Phase::kShortHot:
      return Begin(Phase::kRule);
    case Phase::kRule:
      ChooseLayers();
      return NextLayer();
    case Phase::kLayer: {
      const auto layer = static_cast<size_t>(layers_.back());
      layers_.pop_back();
      calibration_.layer_kl[layer] = static_cast<float>(TakeKl());
      calibration_.layer_is_measured[layer] = 1;
      return NextLayer();
    }
    case Phase::kImproved:
      calibration_.cold_kl = TakeKl();
      return Improve();
    case Phase::kDone:
      break;
  }
  return {};
}

Status Calibrator::AfterUniform() {
  calibration_.cold_kl = calibration_.uniform_kl;
  if (every_layer_ || calibration_.uniform_kl > kColdKlTarget) {
    return Begin(Phase::kShortHot);
  }
  calibration_.layer_kl.clear();
  calibration_.layer_is_measured.clear();
  return Begin(Phase::kDone);
}

// Those that lose most by the rule, as far as kMaxTokensRead leaves room beside what is still to
// come.
void Calibrator::ChooseLayers() {
  const int page = layout_.page_tokens;
  const int improvements = kMaxImprovements * (static_cast<int>(hot_.size()) - first_page_) * page;
  const int each = (static_cast<int>(short_hot_.size()) - first_page_) * page;
  const int room = (kMaxTokensRead - num_tokens_read_ - improvements) / each;
  // What coding does to a layer's scores, in the layers that look things up.
  for (size_t layer = 0; layer < rule_.size(); ++layer) {
    rule_[layer] *= copy_scores_[layer];
  }
  layers_ = Ranked(rule_);
  const int most = every_layer_ ? room : std::min(room, kMaxMeasuredLayers);
  layers_.resize(static_cast<size_t>(std::clamp(most, 0, layout_.num_layers)));
  std::erase_if(layers_, [&](int layer) {
    return calibration_.layer_is_measured[static_cast<size_t>(layer)] != 0;
  });
  std::reverse(layers_.begin(), layers_.end());
}

Status Calibrator::NextLayer() {
  if (!layers_.empty()) {
    return Begin(Phase::kLayer);
  }
  PredictUnmeasured(rule_, calibration_);
  return Improve();
}

// The prediction is rough, so what it leads to is measured, and gone on from once.
Status Calibrator::Improve() {
  const bool better = num_improved_ < kMaxImprovements &&
                      ImproveColdFormats(layout_, calibration_.layer_kl, calibration_.cold_kl,
                                         kColdKlTarget, kMinColdRatio, calibration_.formats);
  ++num_improved_;
  return Begin(better ? Phase::kImproved : Phase::kDone);
}

}  // namespace thermocline
