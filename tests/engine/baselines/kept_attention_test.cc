#include "engine/baselines/kept_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/baselines/kept_tokens.h"
#include "kernels/core/half.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;
constexpr int kLayer = 1;    // of two
constexpr int kSpread = 20;  // pages that a sequence may have
constexpr uint16_t kHalfNan = 0x7e00;

struct Shape {
  int num_heads, num_kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{9, 3, 64}, {4, 4, 16}, {8, 1, 128}, {6, 2, 24}, {2, 1, 80}};

// What a page has lost: all of it, more pages in a row than are one split of the device's work, all
// but one token, half of it, nothing.
constexpr uint64_t kLost[] = {
    ~uint64_t{0}, 0xfedcba9876543210, ~uint64_t{1},         0,
    ~uint64_t{0}, ~uint64_t{0},       ~uint64_t{0},         ~uint64_t{0},
    ~uint64_t{0}, ~uint64_t{0},       ~(uint64_t{1} << 63), uint64_t{1} << 32};

// A cache of hot pages in scattered places, sequences with rows of their own, and what is kept.
class Case {
 public:
  Case(const Shape& shape, bool reference, int num_sequences)
      : shape_(shape),
        layout_{2, shape.num_kv_heads, shape.head_dim, kPageTokens},
        device_(CpuDevice::Create({.num_threads = 2, .reference = reference}).value()),
        stream_(device_->NewStream()),
        kept_(layout_),
        pool_(2),
        attention_(layout_, pool_) {
    const uint32_t head_bytes = NativeHeadBytes(layout_);
    const uint32_t layer_bytes = head_bytes * static_cast<uint32_t>(shape.num_kv_heads);
    const auto units = static_cast<uint32_t>((2 * layer_bytes + 4095) / kArenaUnitBytes);
    const auto num_pages = static_cast<uint32_t>(num_sequences * kSpread);
    arena_.resize(size_t{num_pages} * units * kArenaUnitBytes);
    for (uint32_t i = 0; i < num_pages; ++i) {
      page_map_.emplace_back(Tier::kHot, (num_pages - 1 - i) * units);
      kept_.Refill(i);
    }
    formats_.resize(2 * kNumTiers);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      formats_[layer * kNumTiers] = {.layer_offset = layer * layer_bytes,
                                     .head_stride = head_bytes};
    }
    for (int s = 0; s < num_sequences; ++s) {
      rows_.push_back(RandomFloats(static_cast<size_t>(kSpread * kPageTokens * width()),
                                   static_cast<uint32_t>(s + 1)));
    }
  }

  // Tokens [first, first + count) of a sequence are the batch's next.
  void Add(int sequence, int first, int count) {
    for (int i = 0; i < count; ++i) {
      positions_.push_back(first + i);
    }
    sequences_.push_back(sequence);
    starts_.push_back(static_cast<int32_t>(positions_.size()));
    const auto begin = rows_of(sequence).begin() + int64_t{first} * width();
    qkv_.insert(qkv_.end(), begin, begin + int64_t{count} * width());
    for (int i = 0; i < kSpread; ++i) {
      page_ids_.push_back(static_cast<PageId>(sequence * kSpread + i));
    }
    page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  }

  void ClearBatch() {
    positions_.clear();
    sequences_.clear();
    qkv_.clear();
    page_ids_.clear();
    starts_ = page_starts_ = {0};
  }

  // Puts the batch's keys and values into the cache.
  void Append() {
    const int k_column = shape_.num_heads * shape_.head_dim;
    device_->ops().AppendKv(qkv(), k_column, k_column + shape_.num_kv_heads * shape_.head_dim,
                            batch(), kv(), kLayer, *stream_);
  }

  // Nobody can read what is evicted without it being seen: it is no number any more.
  void Evict(int sequence, int position, int kv_head) {
    const auto page = static_cast<PageId>(sequence * kSpread + position / kPageTokens);
    const int slot = position % kPageTokens;
    kept_.Evict(page, kLayer, kv_head, slot);
    for (const size_t offset : {size_t{0}, size_t{NativeVOffset(layout_)}}) {
      auto* values = reinterpret_cast<uint16_t*>(kv().block(page, kLayer, kv_head) + offset);
      std::fill_n(values + slot * shape_.head_dim, shape_.head_dim, kHalfNan);
    }
  }

  std::vector<float> Attend() {
    std::vector<float> out(out_size());
    attention_.Run(device_->ops(), kept_, qkv(), shape_.num_heads, batch(), kv(), params(),
                   OutTensor(out), *stream_);
    return out;
  }

  // The device's own, of all that is in the pages.
  std::vector<float> AttendToAll() {
    std::vector<float> out(out_size());
    device_->ops().PagedAttention(qkv(), shape_.num_heads, batch(), kv(), params(), OutTensor(out),
                                  *stream_);
    return out;
  }

  // What attention to the kept tokens is, in double arithmetic on the rows themselves.
  std::vector<float> Expected() const {
    std::vector<float> out;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      for (int32_t row = starts_[s]; row < starts_[s + 1]; ++row) {
        for (int head = 0; head < shape_.num_heads; ++head) {
          AppendHead(sequences_[s], positions_[static_cast<size_t>(row)], head, out);
        }
      }
    }
    return out;
  }

 private:
  int width() const { return (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim; }
  const std::vector<float>& rows_of(int sequence) const {
    return rows_[static_cast<size_t>(sequence)];
  }
  size_t out_size() const {
    return positions_.size() * static_cast<size_t>(shape_.num_heads * shape_.head_dim);
  }
  Tensor OutTensor(std::vector<float>& out) const {
    return {out.data(),
            {static_cast<int64_t>(positions_.size()), shape_.num_heads * shape_.head_dim}};
  }
  Tensor qkv() { return {qkv_.data(), {static_cast<int64_t>(positions_.size()), width()}}; }
  AttentionParams params() const {
    return {.layer = kLayer, .scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim))};
  }
  KvCacheView kv() {
    return {.arena = arena_.data(),
            .page_map = page_map_.data(),
            .formats = formats_.data(),
            .layout = layout_};
  }
  BatchView batch() const {
    return {.num_tokens = static_cast<int>(positions_.size()),
            .num_sequences = static_cast<int>(sequences_.size()),
            .sequence_starts = starts_.data(),
            .positions = positions_.data(),
            .page_starts = page_starts_.data(),
            .page_ids = page_ids_.data()};
  }

  double Half(int sequence, int position, int column) const {
    return HalfToFloat(
        FloatToHalf(rows_of(sequence)[static_cast<size_t>(position * width() + column)]));
  }

  void AppendHead(int sequence, int position, int head, std::vector<float>& out) const {
    const int dim = shape_.head_dim;
    const int kv_head = head / (shape_.num_heads / shape_.num_kv_heads);
    const int k_column = (shape_.num_heads + kv_head) * dim;
    const int v_column = k_column + shape_.num_kv_heads * dim;
    std::vector<double> sums(static_cast<size_t>(dim));
    double all = 0;
    for (int p = 0; p <= position; ++p) {
      const auto page = static_cast<PageId>(sequence * kSpread + p / kPageTokens);
      if ((kept_.of(page, kLayer, kv_head) >> (p % kPageTokens) & 1) == 0) {
        continue;
      }
      double score = 0;
      for (int i = 0; i < dim; ++i) {
        const float q = rows_of(sequence)[static_cast<size_t>(position * width() + head * dim + i)];
        score += static_cast<double>(q) * Half(sequence, p, k_column + i);
      }
      const double weight = std::exp(score / std::sqrt(dim));
      all += weight;
      for (int i = 0; i < dim; ++i) {
        sums[static_cast<size_t>(i)] += weight * Half(sequence, p, v_column + i);
      }
    }
    for (const double sum : sums) {
      out.push_back(static_cast<float>(sum / all));
    }
  }

  Shape shape_;
  KvLayout layout_;
  std::unique_ptr<CpuDevice> device_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::byte> arena_;
  std::vector<PageEntry> page_map_;
  std::vector<LayerFormat> formats_;
  std::vector<std::vector<float>> rows_;  // [sequences][kSpread * kPageTokens, width]
  std::vector<int> sequences_;            // of the batch
  std::vector<int32_t> starts_{0}, positions_, page_starts_{0};
  std::vector<PageId> page_ids_;
  std::vector<float> qkv_;
  KeptTokens kept_;
  ThreadPool pool_;
  KeptAttention attention_;
};

// Each KV head of a sequence loses its own.
void EvictSome(Case& test, int sequence, int length, int num_kv_heads) {
  constexpr int kNumLost = static_cast<int>(std::size(kLost));
  for (int position = 0; position < length; ++position) {
    for (int h = 0; h < num_kv_heads; ++h) {
      const int page = position / kPageTokens + 5 * h + 7 * sequence;
      if ((kLost[page % kNumLost] >> (position % kPageTokens) & 1) != 0) {
        test.Evict(sequence, position, h);
      }
    }
  }
}

// Words round queries, keys, weights and values; the reference does not.
float Tolerance(bool reference) { return reference ? 1e-5F : 0x1p-10F; }

void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, float tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], tolerance) << i;
  }
}

TEST(KeptAttention, EvictedTokensAreAsIfTheyWereNotThere) {
  constexpr int kLength = 12 * kPageTokens + 13;
  for (const Shape& shape : kShapes) {
    for (const bool reference : {true, false}) {
      Case test(shape, reference, 1);
      test.Add(0, 0, kLength);
      test.Append();
      EvictSome(test, 0, kLength, shape.num_kv_heads);
      for (const int count : {70, 17, 1}) {  // tokens of the batch, over one page edge or none
        test.ClearBatch();
        test.Add(0, kLength, count);
        test.Append();
        ExpectNear(test.Attend(), test.Expected(), Tolerance(reference));
      }
    }
  }
}

TEST(KeptAttention, SequencesOfABatchHaveEachLostTheirOwn) {
  const Shape shape = kShapes[0];
  for (const bool reference : {true, false}) {
    Case test(shape, reference, 4);
    constexpr int kLengths[] = {130, 64, 300, 1};
    for (int s = 0; s < 4; ++s) {
      test.Add(s, 0, kLengths[s]);
    }
    test.Append();
    for (const int s : {0, 2}) {
      EvictSome(test, s, kLengths[s], shape.num_kv_heads);
    }
    for (int step = 0; step < 3; ++step) {  // what is kept grows; copies of it take no more room
      test.ClearBatch();
      test.Add(2, kLengths[2] + 40 * step, 40);
      test.Add(1, kLengths[1] + step, 1);
      test.Add(0, kLengths[0] + 2 * step, 2);
      test.Add(3, kLengths[3] + 3 * step, 3);
      test.Append();
      ExpectNear(test.Attend(), test.Expected(), Tolerance(reference));
    }
  }
}

// A copy of a whole sequence, as one that lost something beside it asks for, changes no bit either.
TEST(KeptAttention, ASequenceThatLostNothingHasTheBitsOfHotPages) {
  for (const Shape& shape : kShapes) {
    Case test(shape, /*reference=*/false, 2);
    test.Add(0, 0, 200);
    test.Add(1, 0, 300);
    test.Append();
    test.ClearBatch();
    test.Add(0, 200, 5);
    test.Append();
    const std::vector<float> hot = test.AttendToAll();
    EXPECT_EQ(test.Attend(), hot);
    EvictSome(test, 1, 300, shape.num_kv_heads);
    test.Add(1, 300, 4);
    test.Append();
    const std::vector<float> both = test.Attend();
    EXPECT_TRUE(std::equal(hot.begin(), hot.end(), both.begin()));
  }
}

TEST(KeptTokens, APageIsWholeUntilItLosesAToken) {
  KeptTokens kept({.num_layers = 2, .num_kv_heads = 3, .head_dim = 16, .page_tokens = 64});
  kept.Refill(7);
  kept.Evict(7, 1, 2, 5);
  kept.Evict(7, 1, 2, 63);
  EXPECT_EQ(kept.of(7, 1, 2), ~(uint64_t{1} << 5 | uint64_t{1} << 63));
  EXPECT_EQ(kept.of(7, 1, 1), ~uint64_t{0});
  EXPECT_EQ(kept.of(7, 0, 2), ~uint64_t{0});
  EXPECT_EQ(kept.below(200, 2, 7, 1, 2), ~(uint64_t{1} << 5 | uint64_t{1} << 63));
  EXPECT_EQ(kept.below(134, 2, 7, 1, 2), 0x1fU);
  EXPECT_EQ(kept.below(128, 2, 7, 1, 2), 0U);
  kept.Refill(7);
  EXPECT_EQ(kept.of(7, 1, 2), ~uint64_t{0});
}

}  // namespace
}  // namespace thermocline
