#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "kernels/cuda/attention/plan.h"
#include "kernels/cuda/host_launches.h"
#include "kernels/ops.h"
#include "kernels/quant/key_bias.h"

namespace thermocline {

// Under sanitizers a kernel takes some fifteen times as long: tests leave sizes out, no features.
#ifdef THERMOCLINE_THIN_TESTS
inline constexpr bool kThinTests = true;
#else
inline constexpr bool kThinTests = false;
#endif

// A sequence of a batch: the tier of each page, its length with its query tokens, which are its
// last ones.
struct RigSequence {
  std::vector<Tier> pages;
  int length = 0;
  int num_queries = 1;
};

struct RigShape {
  int dim = 64;
  int kv_heads = 2;
  int group = 4;
  Codec cold = Codec::kTurbo3;
  Codec archive = Codec::kMerged2;
  bool has_bias = false;
  bool has_mean = true;
  int window = 0;
  float score_cap = 0;
  bool has_sinks = false;
  bool turns_back = false;
  uint64_t seed = 1;
};

struct RigResult {
  std::vector<float> out;       // [tokens, heads, dim]
  std::vector<float> energies;  // [pages, kv_heads]
  bool operator==(const RigResult&) const = default;
};

// Random pages of given tiers in an arena, and attention over them by the kernels on the host
// context, by ReferenceOps, and by plain loops in double over the very level bytes that the kernels
// multiply.
class AttentionRig {
 public:
  AttentionRig(const RigShape& shape, std::vector<RigSequence> sequences);

  // Positions behind a sequence's end are NaN for the kernels.
  RigResult Run(GridOrder order = {}, int num_blocks = 3) { return RunOnly(order, num_blocks, -1); }
  // Runs one sequence as if it were the batch.
  RigResult RunAlone(int sequence, GridOrder order = {}) { return RunOnly(order, 2, sequence); }
  RigResult Reference();
  RigResult Exact() const;  // not for kernels that turn back

  // The part of `whole` that RunAlone gives.
  RigResult PartOf(const RigResult& whole, int sequence) const;
  size_t num_page_heads() const;

 private:
  RigResult RunOnly(GridOrder order, int num_blocks, int sequence);
  void FillPage(PageId page, int sequence, int index);
  void MakeBias();
  int num_heads() const { return shape_.kv_heads * shape_.group; }
  float scale() const;
  std::vector<float> Normal(size_t count, float deviation);
  std::vector<uint64_t> StaleHalves();

  struct ExactRows {
    std::vector<double> k, v;  // [rows][dim]
    std::vector<double> logs;
    std::vector<int> positions;  // -1: before every query
    std::vector<size_t> page_starts;
  };
  void DecodeExactly(PageId page, int index, int kv_head, ExactRows& rows) const;
  ExactRows RowsOf(int sequence, int kv_head) const;
  void AttendExactly(const ExactRows& rows, int sequence, int token, int head,
                     RigResult& result) const;

  RigShape shape_;
  std::vector<RigSequence> sequences_;
  std::mt19937_64 random_;
  std::vector<LayerFormat> formats_;
  std::vector<std::byte> arena_;
  std::vector<PageEntry> page_map_;
  std::vector<int32_t> sequence_starts_{0}, positions_, page_starts_{0};
  std::vector<PageId> page_ids_;
  std::vector<float> mean_keys_, signs_, q_, sinks_;
  std::unique_ptr<KeyBias> bias_;
  std::vector<uint32_t> bias_angles_;
  KvCacheView kv_;
};

// The greatest share of its norm that an output is off by, over rows.
double WorstRowError(std::span<const float> got, std::span<const float> want, int dim);
// The greatest share that an energy is off by, of those above a ten-thousandth of the largest.
double WorstEnergyError(std::span<const float> got, std::span<const float> want);

}  // namespace thermocline
