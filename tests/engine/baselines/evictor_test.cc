#include "engine/baselines/evictor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "engine/baselines/eviction_rules.h"
#include "engine/batch.h"
#include "kernels/core/half.h"
#include "kernels/cpu/cpu_device.h"

namespace thermocline {
namespace {

constexpr int kHeads = 4;
constexpr KvLayout kLayout{.num_layers = 2, .num_kv_heads = 2, .head_dim = 16, .page_tokens = 64};
constexpr int kGroup = kHeads / kLayout.num_kv_heads;
constexpr int kKeyColumn = kHeads * kLayout.head_dim;
constexpr int kValueColumn = kKeyColumn + kLayout.num_kv_heads * kLayout.head_dim;
constexpr int kWidth = kValueColumn + kLayout.num_kv_heads * kLayout.head_dim;
constexpr int kMaxTokens = 640;

using Rows = std::vector<float>;  // [kMaxTokens, kWidth]

Rows RandomRows(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  Rows rows(size_t{kMaxTokens} * kWidth);
  std::generate(rows.begin(), rows.end(), [&] { return normal(random); });
  return rows;
}

float& Element(Rows& rows, int position, int column) {
  return rows[static_cast<size_t>(position * kWidth + column)];
}

// A cache, an evictor, and sequences whose activations are given instead of computed.
class Rig {
 public:
  Rig(Baseline baseline, double budget)
      : device_(CpuDevice::Create({.reference = true}).value()),
        stream_(device_->NewStream()),
        evictor({.baseline = baseline, .budget = budget, .num_heads = kHeads, .num_threads = 2},
                kLayout) {
    const uint32_t head_bytes = NativeHeadBytes(kLayout);
    const uint32_t layer_bytes = head_bytes * kLayout.num_kv_heads;
    const uint32_t page_units = layer_bytes * kLayout.num_layers / kArenaUnitBytes;
    arena_.resize(size_t{kNumPages} * page_units * kArenaUnitBytes);
    formats_.resize(size_t{kLayout.num_layers} * kNumTiers);
    for (uint32_t layer = 0; layer < kLayout.num_layers; ++layer) {
      formats_[layer * kNumTiers] = {.layer_offset = layer * layer_bytes,
                                     .head_stride = head_bytes};
    }
    for (uint32_t i = 0; i < kNumPages; ++i) {
      page_map_.emplace_back(Tier::kHot, i * page_units);
    }
  }

  // `shared`: leading pages of another sequence, with their tokens.
  Sequence NewSequence(int num_prompt, const std::vector<PageId>& shared = {}) {
    auto request = std::make_shared<Request>();
    request->prompt.resize(static_cast<size_t>(num_prompt));
    Sequence sequence{.request = request};
    sequence.tokens = request->prompt;
    sequence.tokens.resize(kMaxTokens);
    sequence.num_computed = sequence.num_cached =
        static_cast<int>(shared.size()) * kLayout.page_tokens;
    for (int i = 0; i * kLayout.page_tokens < kMaxTokens; ++i) {
      const auto index = static_cast<size_t>(i);
      sequence.pages.Append(index < shared.size() ? shared[index] : next_page_++);
    }
    return sequence;
  }

  uint64_t Step(Sequence& sequence, const Rows& rows, int num_tokens) {
    StepPlan plan;
    plan.sequences = {{&sequence, num_tokens}};
    batch_.Build(plan, kLayout.page_tokens);
    const KvCacheView kv{.arena = arena_.data(),
                         .page_map = page_map_.data(),
                         .formats = formats_.data(),
                         .layout = kLayout};
    evictor.BeginStep(plan);
    for (int layer = 0; layer < kLayout.num_layers; ++layer) {
      const auto begin = rows.begin() + int64_t{sequence.num_computed} * kWidth;
      Rows step(begin, begin + int64_t{num_tokens} * kWidth);
      const Tensor qkv(step.data(), {num_tokens, kWidth});
      device_->ops().AppendKv(qkv, kKeyColumn, kValueColumn, batch_.view(), kv, layer, *stream_);
      std::vector<float> out(static_cast<size_t>(num_tokens * kKeyColumn));
      evictor.Attend(device_->ops(), qkv, kHeads, batch_.view(), kv,
                     {.layer = layer, .scale = 0.25F}, Tensor(out.data(), {num_tokens, kKeyColumn}),
                     *stream_);
    }
    evictor.EndStep(plan);
    const uint64_t held_bytes = evictor.HeldBytes(plan.sequences[0]);
    sequence.num_computed += num_tokens;
    return held_bytes;
  }

  std::set<int> Kept(const Sequence& sequence, int layer, int kv_head) const {
    std::set<int> kept;
    for (int p = 0; p < sequence.num_computed; ++p) {
      const PageId page = sequence.pages[static_cast<size_t>(p / kLayout.page_tokens)];
      if ((evictor.kept().of(page, layer, kv_head) >> (p % kLayout.page_tokens) & 1) != 0) {
        kept.insert(p);
      }
    }
    return kept;
  }

 private:
  static constexpr uint32_t kNumPages = 40;
  std::unique_ptr<CpuDevice> device_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::byte> arena_;
  std::vector<PageEntry> page_map_;
  std::vector<LayerFormat> formats_;
  Batch batch_;
  PageId next_page_ = 0;

 public:
  Evictor evictor;
};

uint64_t BytesOf(int num_tokens) {
  return static_cast<uint64_t>(num_tokens) * kLayout.num_layers * kLayout.num_kv_heads *
         kLayout.head_dim * 4;
}

// H2O of one KV head in plain loops; each kept position with its mass.
class PlainH2o {
 public:
  void Step(const Rows& rows, int kv_head, int num_tokens, double budget) {
    for (int t = length_; t < length_ + num_tokens; ++t) {
      mass_[t] = 0;
    }
    for (int t = length_; t < length_ + num_tokens; ++t) {
      for (int h = kv_head * kGroup; h < (kv_head + 1) * kGroup; ++h) {
        AddWeights(rows, t, h, kv_head);
      }
    }
    length_ += num_tokens;
    const int num_kept = std::max(1, static_cast<int>(budget * length_));
    const int num_recent = num_kept - num_kept / 2;
    while (static_cast<int>(mass_.size()) > num_kept) {
      auto lightest = mass_.begin();
      for (auto it = mass_.begin(); it->first < length_ - num_recent; ++it) {
        lightest = it->second < lightest->second ? it : lightest;
      }
      mass_.erase(lightest);
    }
  }

  std::set<int> kept() const {
    std::set<int> kept;
    for (const auto& [position, mass] : mass_) {
      kept.insert(position);
    }
    return kept;
  }

 private:
  void AddWeights(const Rows& rows, int t, int head, int kv_head) {
    std::map<int, double> weights;
    double sum = 0;
    for (const auto& [position, mass] : mass_) {
      if (position <= t) {
        double score = 0;
        for (int i = 0; i < kLayout.head_dim; ++i) {
          const float key = rows[static_cast<size_t>(position * kWidth + kKeyColumn +
                                                     kv_head * kLayout.head_dim + i)];
          score += static_cast<double>(
                       rows[static_cast<size_t>(t * kWidth + head * kLayout.head_dim + i)]) *
                   static_cast<double>(HalfToFloat(FloatToHalf(key)));
        }
        weights[position] = std::exp(score / 4);  // sqrt(16)
        sum += weights[position];
      }
    }
    for (const auto& [position, weight] : weights) {
      mass_[position] += weight / sum;
    }
  }

  int length_ = 0;
  std::map<int, double> mass_;
};

TEST(Evictor, H2oKeepsWhatPlainLoopsKeepInEveryStep) {
  Rig rig(Baseline::kH2o, 0.3);
  const Rows rows = RandomRows(1);
  Sequence sequence = rig.NewSequence(300);
  std::vector<PlainH2o> plain(kLayout.num_kv_heads);
  for (const int num_tokens : {150, 33, 65, 1, 1, 1, 80, 1, 1}) {
    const uint64_t held_bytes = rig.Step(sequence, rows, num_tokens);
    for (int h = 0; h < kLayout.num_kv_heads; ++h) {
      plain[static_cast<size_t>(h)].Step(rows, h, num_tokens, 0.3);
      EXPECT_EQ(rig.Kept(sequence, 0, h), plain[static_cast<size_t>(h)].kept());
      EXPECT_EQ(rig.Kept(sequence, 1, h), plain[static_cast<size_t>(h)].kept());
    }
    EXPECT_EQ(held_bytes, BytesOf(NumKeptTokens(0.3, sequence.num_computed)));
  }
  EXPECT_NE(rig.Kept(sequence, 0, 0), rig.Kept(sequence, 0, 1));
}

TEST(Evictor, H2oKeepsAPlantedHeavyHitter) {
  Rig rig(Baseline::kH2o, 0.1);
  Rows rows = RandomRows(2);
  for (int t = 0; t < kMaxTokens; ++t) {
    Element(rows, t, 0) = 3;  // of head 0's query, so of KV head 0
  }
  Element(rows, 77, kKeyColumn) = 20;
  Sequence sequence = rig.NewSequence(600);
  for (int i = 0; i < 30; ++i) {
    rig.Step(sequence, rows, 20);
  }
  EXPECT_TRUE(rig.Kept(sequence, 0, 0).contains(77));
  EXPECT_EQ(rig.Kept(sequence, 0, 0).size(), 60U);
}

TEST(Evictor, StreamingKeepsSinksAndTheRecentInEveryLayerAndHead) {
  Rig rig(Baseline::kStreaming, 0.25);
  const Rows rows = RandomRows(3);
  Sequence sequence = rig.NewSequence(200);
  for (const int num_tokens : {100, 100, 1, 1, 1, 1}) {
    const uint64_t held_bytes = rig.Step(sequence, rows, num_tokens);
    const int num_kept = sequence.num_computed / 4;
    EXPECT_EQ(held_bytes, BytesOf(num_kept));
    std::set<int> want = {0, 1, 2, 3};
    // Where the budget has grown, nothing that has gone comes back.
    for (int p = sequence.num_computed - num_kept + 4; p < sequence.num_computed; ++p) {
      want.insert(p);
    }
    EXPECT_EQ(rig.Kept(sequence, 1, 1), want);
  }
}

// What all but the window attend to is at 20, what the window attends to at 150.
Rows RowsOfTwoNeedles(int num_prompt) {
  Rows rows = RandomRows(4);
  for (int t = 0; t < num_prompt; ++t) {
    const bool in_window = t >= num_prompt - kSnapKvWindow;
    for (const int head_column : {0, kLayout.head_dim}) {
      Element(rows, t, head_column) = in_window ? -6 : 6;
      Element(rows, t, head_column + 1) = in_window ? 6 : 0;
    }
  }
  Element(rows, 20, kKeyColumn) = 20;
  Element(rows, 150, kKeyColumn + 1) = 20;
  return rows;
}

TEST(Evictor, SnapKvKeepsWhatTheWindowAttendsToHoweverThePromptIsCut) {
  constexpr int kPrompt = 403;
  const Rows rows = RowsOfTwoNeedles(kPrompt);
  std::set<int> whole;
  for (const int chunk : {kPrompt, 100, 7}) {
    Rig rig(Baseline::kSnapKv, 0.2);
    Sequence sequence = rig.NewSequence(kPrompt);
    uint64_t held_bytes = 0;
    while (sequence.num_computed < kPrompt) {
      EXPECT_EQ(rig.Kept(sequence, 0, 0).size(), static_cast<size_t>(sequence.num_computed));
      held_bytes = rig.Step(sequence, rows, std::min(chunk, kPrompt - sequence.num_computed));
    }
    EXPECT_EQ(held_bytes, BytesOf(80));
    const std::set<int> kept = rig.Kept(sequence, 0, 0);
    EXPECT_TRUE(kept.contains(147) && kept.contains(150) && kept.contains(153));
    EXPECT_FALSE(kept.contains(20));
    EXPECT_TRUE(kept.contains(kPrompt - kSnapKvWindow));
    whole = chunk == kPrompt ? kept : whole;
    EXPECT_EQ(kept, whole);
    for (int i = 0; i < 10; ++i) {
      held_bytes = rig.Step(sequence, rows, 1);
    }
    EXPECT_EQ(held_bytes, BytesOf(90)) << "what is generated stays";
  }
}

TEST(Evictor, WhoFindsCachedPagesReadsOnlyWhatWasKept) {
  for (const Baseline baseline : {Baseline::kStreaming, Baseline::kH2o, Baseline::kSnapKv}) {
    Rig rig(baseline, 0.4);
    const Rows rows = RandomRows(5);
    Sequence first = rig.NewSequence(256);
    rig.Step(first, rows, 256);
    const std::set<int> kept = rig.Kept(first, 1, 0);
    EXPECT_EQ(kept.size(), 102U);
    Sequence second = rig.NewSequence(300, {0, 1, 2, 3});
    EXPECT_EQ(rig.Kept(second, 1, 0), kept);
    rig.Step(second, rows, 44);
    EXPECT_EQ(rig.Kept(second, 1, 0).size(), 120U);
    for (const int p : rig.Kept(second, 1, 0)) {
      EXPECT_TRUE(p >= 256 || kept.contains(p)) << "an evicted token has returned";
    }
  }
}

TEST(Evictor, PageThatIsWrittenAnewHasAllItsTokens) {
  Rig rig(Baseline::kStreaming, 0.1);
  const Rows rows = RandomRows(6);
  Sequence first = rig.NewSequence(300);
  rig.Step(first, rows, 300);
  Sequence second = rig.NewSequence(300);
  second.pages.Clear();
  for (const PageId page : first.pages.ids()) {
    second.pages.Append(page);
  }
  rig.Step(second, rows, 10);
  EXPECT_EQ(rig.Kept(second, 0, 0), (std::set<int>{9}));
  rig.Step(second, rows, 10);
  EXPECT_EQ(rig.Kept(second, 0, 0).size(), 2U);
}

}  // namespace
}  // namespace thermocline
