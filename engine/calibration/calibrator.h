#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/calibration/calibration.h"
#include "engine/calibration/calibration_pass.h"
#include "engine/calibration/query_moments.h"
#include "kernels/base/status.h"

namespace thermocline {

// Measures a Calibration in small pieces, between which the model may be used for anything else:
// the result is the same, bit for bit, however it is cut. Reads kMaxTokensRead tokens at most,
// whatever the model. Not thread-safe; borrows the model and the device.
//
// It reads the text once hot: the distributions to compare with, the queries' moments and the
// layers that copy. Then it reads all of it warm and cold, and, where that is not good enough, a
// part of it with one layer cold at a time: the sixteen that lose most by the rule, which is what
// coding does to a layer's scores times how much the layer copies. Better codecs are measured
// twice at most.
class Calibrator {
 public:
  static constexpr int kMaxTokensRead = 32768;

  // `begun`: the model's own formats (key bias), and what an earlier Calibrator of the same text
  // had in calibration() when it stopped. `every_layer`: measures each, as far as kMaxTokensRead
  // leaves room, even when the target holds without it. `tokens`: see CalibrationTokens; of fewer
  // than seven pages there is nothing to measure.
  static Result<std::unique_ptr<Calibrator>> Create(Transformer& model, Device& device,
                                                    const KvLayout& layout, Calibration begun,
                                                    std::vector<TokenId> tokens, bool every_layer);

  // Reads up to `max_tokens` (at least one) tokens of one page. An error is of the device or the
  // model, and final.
  Status Step(int max_tokens);
  Status Finish();  // steps until it is done

  bool done() const { return phase_ == Phase::kDone; }
  double fraction() const;  // how far it is, in [0, 1]; rises
  // Meanwhile: what is worth keeping. Once done: the result.
  const Calibration& calibration() const { return calibration_; }
  // Rises when there is more in calibration().
  int num_results() const { return num_results_; }
  int num_tokens_read() const { return num_tokens_read_; }

 private:
  enum class Phase : uint8_t { kHot, kWarm, kUniform, kShortHot, kRule, kLayer, kImproved, kDone };

  Calibrator(Transformer& model, Device& device, const KvLayout& layout, Calibration begun,
             std::vector<TokenId> tokens, bool every_layer);

  bool is_short() const;
  std::span<const TokenId> text() const;
  int num_text_pages() const;
  Tier tier() const;
  Status ReadChunk(int max_tokens);
  // Each layer of a hot step, as the model is at it.
  Status ObserveQueries(int layer, Tensor qkv, Stream& stream);
  void EndHotPage();
  void EndMeasuredPage();
  Status EndPage();
  Status EndPass();
  Status Begin(Phase phase);
  Status AfterUniform();
  void ChooseLayers();
  Status NextLayer();
  Status Improve();
  double TakeKl();
  void AddCopyScores();

  Transformer& model_;
  Device& device_;
  KvLayout layout_;
  std::vector<TokenId> tokens_;
  std::vector<TokenId> short_tokens_;  // that layers are measured on
  bool every_layer_;
  int first_page_;        // that reads a page outside the window
  int first_short_page_;  // as the texts begin alike, it is not read again before
  Calibration calibration_;
  std::unique_ptr<CalibrationPass> pass_;
  QueryMoments queries_;
  HostCopy host_qkv_;
  std::vector<float> moments_;

  Phase phase_ = Phase::kHot;
  int page_ = 0;
  int token_ = 0;  // next to read in the page
  int num_improved_ = 0;
  std::vector<std::vector<float>> hot_;        // [page][...]: log probabilities
  std::vector<std::vector<float>> short_hot_;  // the same of the short text
  std::vector<float> read_;                    // the page in work
  std::vector<float> energy_;                  // the hot page in work
  std::vector<float> chunk_energy_;
  std::vector<double> copy_scores_;  // [num_layers]
  std::vector<double> rule_;         // [num_layers]: loss by the rule, in no unit
  std::vector<int> layers_;          // still to measure, the next last
  double kl_sum_ = 0;
  size_t num_rows_ = 0;  // in kl_sum_
  int num_results_ = 0;
  int num_tokens_read_ = 0;
};

}  // namespace thermocline
