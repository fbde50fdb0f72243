#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/calibration/calibration.h"
#include "engine/calibration/calibration_file.h"
#include "engine/calibration/calibrator.h"
#include "kernels/base/status.h"

namespace thermocline {

// How long a piece of background work may be, by what the last ones took.
class PieceSize {
 public:
  PieceSize(int tokens, double target_seconds) : tokens_(tokens), target_seconds_(target_seconds) {}
  int tokens() const { return tokens_; }
  double seconds() const { return seconds_; }  // what the last piece took; 0: none
  void Note(double seconds);

 private:
  static constexpr int kMinTokens = 4;
  static constexpr int kMaxTokens = 64;

  int tokens_;
  double target_seconds_;
  double seconds_ = 0;
};

// Calibrates a model while it serves, in pieces, and keeps what is done where the next start finds
// it. While no request runs or waits a piece follows the other, each of about kIdlePieceSeconds,
// which is what a request that comes then waits at most; beside steps pieces are shorter and take
// kBusyShare of the time, so that it ends some day under any load. Until it has ended and the
// engine has found a moment to switch, pages have the formats of SafeKvFormats.
//
// Not thread-safe: it uses the model between steps, on the engine thread.
class LiveCalibration {
 public:
  static constexpr double kIdlePieceSeconds = 0.05;
  static constexpr double kBusyPieceSeconds = 0.01;
  static constexpr double kBusyShare = 0.05;

  struct Config {
    std::string path;  // where the calibration will stand; empty: it is not kept
    CalibrationKey key;
    KvLayout layout;
    bool every_layer = false;  // see Calibrator
    std::vector<TokenId> tokens;
    // What the result's formats become before they are used: see SpendBudget. Empty: nothing.
    std::function<void(Calibration&)> adapt;
    // Gives the formats to all that read or write pages, between steps. Empty: nobody is there.
    std::function<void(const Calibration&)> apply;
    // Told once how it ended, and why the result could not be kept or an empty text; on the engine
    // thread; posts and returns. Empty: nobody asks.
    std::function<void(const Status&, const std::string&, const Calibration&)> on_end;
  };
  // `begun`: the formats in force, and what an earlier process had kept. The model and the device
  // outlive it.
  LiveCalibration(Transformer& model, Device& device, Calibration begun, Config config);

  // A piece between two steps that took `step_seconds`, if it is time for one; 0: nothing runs.
  void Work(double step_seconds);
  // One piece of so many tokens at most, unless it has ended.
  void Step(int max_tokens);

  // There is nothing left to measure, or it cannot be: see status().
  bool ended() const { return ended_; }
  const Status& status() const { return status_; }
  // Ended well, and not yet in force.
  bool wants_switch() const { return ended_ && status_.ok() && !switched_; }
  // What pages will take, by tier.
  std::array<uint32_t, kNumTiers> page_bytes() const;
  void Switch();  // applies the formats
  bool switched() const { return switched_; }

  double fraction() const;
  // As measured, whether a budget widens it or not. Once it has ended.
  const Calibration& result() const { return result_; }
  const std::string& keep_warning() const { return keep_warning_; }

  // Where a calibration that has not ended is kept, beside its path.
  static std::string PartialPath(const std::string& path) { return path + ".part"; }

 private:
  void Keep();
  void End(Status status);

  Transformer& model_;
  Device& device_;
  Config config_;
  Calibration begun_;                       // until there is a calibrator
  std::unique_ptr<Calibrator> calibrator_;  // null: not begun, or ended
  PieceSize idle_piece_{16, kIdlePieceSeconds};
  PieceSize busy_piece_{8, kBusyPieceSeconds};
  double credit_ = 0;  // seconds that pieces may take beside steps
  int num_kept_ = 0;
  Calibration result_;
  Calibration adapted_;
  Status status_;
  std::string keep_warning_;
  bool ended_ = false;
  bool switched_ = false;
};

}  // namespace thermocline
