#include "engine/calibration/live_calibration.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

namespace thermocline {
namespace {

constexpr double kMaxCreditSeconds = 2;  // or what one piece takes, if that is more

}  // namespace

void PieceSize::Note(double seconds) {
  seconds_ = seconds;
  if (seconds > 1.5 * target_seconds_) {
    tokens_ = std::max(kMinTokens, tokens_ / 2);
  } else if (seconds < 0.5 * target_seconds_) {
    tokens_ = std::min(kMaxTokens, tokens_ * 2);
  }
}

LiveCalibration::LiveCalibration(Transformer& model, Device& device, Calibration begun,
                                 Config config)
    : model_(model), device_(device), config_(std::move(config)), begun_(std::move(begun)) {}

void LiveCalibration::Work(double step_seconds) {
  const auto piece = [this](PieceSize& size) {
    const auto begin = std::chrono::steady_clock::now();
    Step(size.tokens());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    size.Note(elapsed.count());
    return elapsed.count();
  };
  if (ended_) {
    return;
  }
  if (step_seconds <= 0) {
    piece(idle_piece_);
    return;
  }
  const double most = std::max(kMaxCreditSeconds, busy_piece_.seconds());
  credit_ = std::min(most, credit_ + kBusyShare * step_seconds);
  if (credit_ >= std::max(kBusyPieceSeconds, busy_piece_.seconds())) {
    credit_ -= piece(busy_piece_);
  }
}

void LiveCalibration::Step(int max_tokens) {
  if (ended_) {
    return;
  }
  if (calibrator_ == nullptr) {
    Result<std::unique_ptr<Calibrator>> calibrator =
        Calibrator::Create(model_, device_, config_.layout, std::move(begun_),
                           std::move(config_.tokens), config_.every_layer);
    if (!calibrator.ok()) {
      return End(calibrator.status());
    }
    calibrator_ = *std::move(calibrator);
  }
  Status status;
  if (!calibrator_->done()) {
    status = calibrator_->Step(max_tokens);
  }
  if (!status.ok() || calibrator_->done()) {
    return End(std::move(status));
  }
  Keep();
}

double LiveCalibration::fraction() const {
  return ended_ ? 1 : calibrator_ == nullptr ? 0 : calibrator_->fraction();
}

// All but what the next start has again before it needs the rest.
void LiveCalibration::Keep() {
  if (config_.path.empty() || calibrator_->num_results() == num_kept_) {
    return;
  }
  num_kept_ = calibrator_->num_results();
  Calibration begun = calibrator_->calibration();
  begun.formats.query_factors.clear();
  begun.formats.mean_keys.clear();
  // If it cannot be written, the whole will not be either, and that is told.
  (void)WriteCalibration(PartialPath(config_.path), config_.key, config_.layout, begun);
}

void LiveCalibration::End(Status status) {
  ended_ = true;
  status_ = std::move(status);
  if (status_.ok()) {
    result_ = calibrator_->calibration();
    adapted_ = result_;
    if (config_.adapt) {
      config_.adapt(adapted_);
    }
    if (!config_.path.empty()) {
      keep_warning_ =
          WriteCalibration(config_.path, config_.key, config_.layout, result_).message();
      std::error_code ignored;
      std::filesystem::remove(PartialPath(config_.path), ignored);
    }
  }
  calibrator_.reset();
  if (config_.on_end) {
    config_.on_end(status_, keep_warning_, result_);
  }
}

std::array<uint32_t, kNumTiers> LiveCalibration::page_bytes() const {
  return PageBytes(config_.layout, adapted_.formats);
}

void LiveCalibration::Switch() {
  switched_ = true;
  if (config_.apply) {
    config_.apply(adapted_);
  }
}

}  // namespace thermocline
