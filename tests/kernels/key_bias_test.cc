#include "kernels/quant/key_bias.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/core/hadamard.h"
#include "kernels/core/half.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/rotation.h"

namespace thermocline {
namespace {

constexpr int kCodedPageTokens = 64;
constexpr float kMagnitude = 1.1F;  // as YaRN's

struct Shape {
  int num_heads, num_kv_heads, head_dim;
  RopeStyle style;
  int rotated = 0;  // leading dimensions of a head; 0: all

  int num_pairs() const { return (rotated > 0 ? rotated : head_dim) / 2; }
};
constexpr Shape kCodedShapes[] = {
    {7, 1, 64, RopeStyle::kHalves},     {4, 2, 128, RopeStyle::kInterleaved},
    {2, 1, 80, RopeStyle::kHalves},     {3, 3, 16, RopeStyle::kInterleaved},
    {2, 1, 64, RopeStyle::kHalves, 16}, {2, 2, 80, RopeStyle::kInterleaved, 60}};

// Pages of two layers whose keys are content + RoPE(b, position); layer 0 has no bias. Each page
// has a place in every tier.
class Rig {
 public:
  Rig(const Shape& shape, float bias_size, int first_page, int num_pages)
      : layout{2, shape.num_kv_heads, shape.head_dim, kCodedPageTokens},
        shape_(shape),
        first_page_(first_page),
        num_pages_(num_pages),
        signs_(RotationSigns(shape.head_dim, 5)) {
    std::mt19937_64 random(3);
    std::normal_distribution<double> normal;
    for (int i = 0; i < shape.num_pairs(); ++i) {
      frequencies_.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / shape.head_dim)));
    }
    biases_.resize(2 * heads() * dim(), 0.0F);
    for (size_t i = heads() * dim(); i < biases_.size(); ++i) {
      biases_[i] = static_cast<float>(normal(random)) * bias_size / std::sqrt(float(dim()));
    }
    content.resize(2 * heads() * static_cast<size_t>(num_pages * kCodedPageTokens) * dim());
    for (double& x : content) {
      x = normal(random);
    }
    key_bias_ = std::make_unique<KeyBias>(
        layout, biases_,
        KeyBias::Rope{.style = shape.style, .frequencies = frequencies_, .magnitude = kMagnitude},
        signs_, (first_page + num_pages) * kCodedPageTokens);
    FillArena(random);
  }

  size_t dim() const { return static_cast<size_t>(layout.head_dim); }
  size_t heads() const { return static_cast<size_t>(layout.num_kv_heads); }
  int position(int page, int token) const {
    return (first_page_ + page) * kCodedPageTokens + token;
  }

  // H S RoPE(b, position) in double.
  std::vector<double> ExactBias(size_t layer, size_t head, int position) const {
    std::vector<double> key(dim());
    const float* b = biases_.data() + (layer * heads() + head) * dim();
    for (int i = 2 * shape_.num_pairs(); i < layout.head_dim; ++i) {
      key[static_cast<size_t>(i)] = static_cast<double>(b[i]);
    }
    for (int i = 0; i < shape_.num_pairs(); ++i) {
      const RopePair pair = RopePairOf(shape_.style, shape_.num_pairs(), i);
      const double theta = position * static_cast<double>(frequencies_[static_cast<size_t>(i)]);
      const double x = b[pair.first] * static_cast<double>(kMagnitude);
      const double y = b[pair.second] * static_cast<double>(kMagnitude);
      key[static_cast<size_t>(pair.first)] = x * std::cos(theta) - y * std::sin(theta);
      key[static_cast<size_t>(pair.second)] = x * std::sin(theta) + y * std::cos(theta);
    }
    std::vector<double> rotated(dim(), 0.0);  // column by column: RotateForward is of floats
    for (size_t j = 0; j < dim(); ++j) {
      std::vector<float> unit(dim(), 0.0F);
      unit[j] = 1.0F;
      RotateForward(unit.data(), signs_.data(), layout.head_dim);
      for (size_t i = 0; i < dim(); ++i) {
        rotated[i] += unit[i] * key[j];
      }
    }
    return rotated;
  }
  std::vector<double> ExactKey(size_t layer, size_t head, int page, int token) const {
    std::vector<double> key = ExactBias(layer, head, position(page, token));
    const size_t row =
        (layer * heads() + head) * static_cast<size_t>(num_pages_ * kCodedPageTokens) +
        static_cast<size_t>(page * kCodedPageTokens + token);
    for (size_t i = 0; i < dim(); ++i) {
      key[i] += content[row * dim() + i];
    }
    return key;
  }

  KvCacheView view(bool with_bias = true) {
    KvCacheView kv{.arena = arena.data(),
                   .page_map = page_map.data(),
                   .formats = formats.data(),
                   .layout = layout};
    if (with_bias) {
      kv.key_bias = key_bias_->view();
    }
    return kv;
  }

  PageEntry Place(Tier tier, int page) const {
    return {tier, static_cast<uint32_t>(page * 3 + static_cast<int>(tier)) * page_units_};
  }
  void Move(const Ops& ops, Stream& stream, int page, Tier to, bool with_bias = true) {
    PageEntry& entry = page_map[static_cast<size_t>(first_page_ + page)];
    const PageMove move{.from = entry,
                        .to = Place(to, page),
                        .checksum = checksum_,
                        .first_position = position(page, 0)};
    MoveResult result;
    ops.TranscodePages(std::span(&move, 1), view(with_bias), std::span(&result, 1), stream);
    ASSERT_EQ(result.outcome, MoveResult::Outcome::kOk);
    checksum_ = result.checksum;
    entry = move.to;
  }

  // Attention of one head's query at the last position over exact keys and the values in the pages.
  std::vector<double> Oracle(size_t layer, size_t kv_head, const float* q) {
    std::vector<double> scores;
    std::vector<float> values;
    std::vector<float> k(size_t{kCodedPageTokens} * dim());
    std::vector<float> v(k.size());
    for (int page = 0; page < num_pages_; ++page) {
      const PageEntry entry = page_map[static_cast<size_t>(first_page_ + page)];
      DecodeBlock(formats[static_cast<size_t>(entry.tier())].codec, layout,
                  view().block_at(entry, static_cast<int>(layer), static_cast<int>(kv_head)),
                  k.data(), v.data());
      values.insert(values.end(), v.begin(), v.end());
      for (int token = 0; token < kCodedPageTokens; ++token) {
        const std::vector<double> key = ExactKey(layer, kv_head, page, token);
        scores.push_back(0);
        for (size_t i = 0; i < dim(); ++i) {
          scores.back() += key[i] * static_cast<double>(q[i]);
        }
      }
    }
    const double max = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    std::vector<double> out(dim(), 0.0);
    for (size_t t = 0; t < scores.size(); ++t) {
      const double weight = std::exp(scores[t] - max);
      sum += weight;
      for (size_t i = 0; i < dim(); ++i) {
        out[i] += weight * static_cast<double>(values[t * dim() + i]);
      }
    }
    for (double& x : out) {
      x /= sum;
    }
    return out;
  }

  // The last page's positions ask.
  std::vector<float> Attend(const Ops& ops, Stream& stream, int layer, std::vector<float>& q) {
    const auto num_tokens = static_cast<int>(q.size()) / (shape_.num_heads * layout.head_dim);
    std::vector<int32_t> positions;
    for (int i = 0; i < num_tokens; ++i) {
      positions.push_back(position(num_pages_ - 1, kCodedPageTokens - num_tokens + i));
    }
    std::vector<PageId> ids(page_map.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<PageId>(i);
    }
    const std::vector<int32_t> starts = {0, num_tokens};
    const std::vector<int32_t> page_starts = {0, static_cast<int32_t>(ids.size())};
    const BatchView batch{num_tokens,         1,         starts.data(), positions.data(),
                          page_starts.data(), ids.data()};
    std::vector<float> out(q.size());
    const Tensor rows(q.data(), {num_tokens, shape_.num_heads * layout.head_dim});
    ops.PagedAttention(rows, shape_.num_heads, batch, view(), {.layer = layer, .scale = 1.0F},
                       Tensor(out.data(), {num_tokens, rows.dim(1)}), stream);
    return out;
  }

  KvLayout layout;
  std::vector<double> content;  // [layers, heads, positions, dim], in the basis of pages
  std::vector<std::byte> arena;
  std::vector<PageEntry> page_map;
  std::vector<LayerFormat> formats;

 private:
  void FillArena(std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    formats.resize(2 * kNumTiers);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (const auto& [tier, codec] :
           {std::pair(Tier::kHot, Codec::kNative), std::pair(Tier::kWarm, Codec::kInt8),
            std::pair(Tier::kCold, Codec::kTurbo3)}) {
        const uint32_t bytes = BlockLayoutOf(codec, layout).bytes;
        formats[layer * kNumTiers + static_cast<uint32_t>(tier)] = {
            .codec = codec,
            .layer_offset = layer * bytes * static_cast<uint32_t>(layout.num_kv_heads),
            .head_stride = bytes};
      }
    }
    const uint32_t bytes = 2 * NativeHeadBytes(layout) * static_cast<uint32_t>(layout.num_kv_heads);
    page_units_ = static_cast<uint32_t>((bytes + kArenaUnitBytes - 1) / kArenaUnitBytes);
    arena.resize(size_t{3} * static_cast<size_t>(num_pages_) * page_units_ * kArenaUnitBytes);
    page_map.assign(static_cast<size_t>(first_page_), Place(Tier::kHot, 0));
    for (int page = 0; page < num_pages_; ++page) {
      page_map.push_back(Place(Tier::kHot, page));
      for (size_t head = 0; head < 2 * heads(); ++head) {
        const size_t layer = head / heads();
        std::byte* block = view().block_at(page_map.back(), static_cast<int>(layer),
                                           static_cast<int>(head % heads()));
        for (int token = 0; token < kCodedPageTokens; ++token) {
          const std::vector<double> key = ExactKey(layer, head % heads(), page, token);
          for (size_t i = 0; i < dim(); ++i) {
            const size_t at = static_cast<size_t>(token) * dim() + i;
            const uint16_t k = FloatToHalf(static_cast<float>(key[i]));
            const uint16_t v = FloatToHalf(normal(random));
            std::memcpy(block + 2 * at, &k, 2);
            std::memcpy(block + NativeVOffset(layout) + 2 * at, &v, 2);
          }
        }
      }
    }
  }

  Shape shape_;
  int first_page_;
  int num_pages_;
  std::vector<float> signs_;
  std::vector<float> frequencies_;
  std::vector<float> biases_;
  std::unique_ptr<KeyBias> key_bias_;
  uint32_t page_units_ = 0;
  uint64_t checksum_ = 0;
};

TEST(KeyBias, IsRopeOfTheBiasInTheBasisOfPagesAtAnyPosition) {
  for (const Shape& shape : kCodedShapes) {
    for (const int first_page : {0, 1, 500}) {
      Rig rig(shape, 900.0F, first_page, 1);
      std::vector<float> k(size_t{kCodedPageTokens} * rig.dim(), 0.0F);
      AddKeyBias(rig.view(), 0, 0, rig.position(0, 0), 1.0F, k.data());
      ASSERT_EQ(k, std::vector<float>(k.size(), 0.0F)) << "layer 0 has no bias";
      AddKeyBias(rig.view(), 1, 0, rig.position(0, 0), 1.0F, k.data());
      for (int token = 0; token < kCodedPageTokens; ++token) {
        const std::vector<double> want = rig.ExactBias(1, 0, rig.position(0, token));
        for (size_t i = 0; i < want.size(); ++i) {
          ASSERT_NEAR(k[static_cast<size_t>(token) * rig.dim() + i], want[i], 900 * 4e-7)
              << "head_dim " << rig.dim() << " page " << first_page << " token " << token;
        }
      }
    }
  }
}

class KeyBiasTest : public testing::TestWithParam<IsaLevel> {
 protected:
  void SetUp() override {
    if (!CpuHas(GetParam())) {
      GTEST_SKIP() << "THIS CPU CANNOT RUN " << IsaName(GetParam());
    }
    device_ = CpuDevice::Create({.num_threads = 2, .isa = GetParam()}).value();
    reference_ = CpuDevice::Create({.reference = true}).value();
    stream_ = device_->NewStream();
  }

  // Mean squared error of a page's keys as readers see them, from the exact ones.
  double KeyError(float bias_size, Tier tier, bool with_bias) {
    Rig rig(kCodedShapes[0], bias_size, 70, 1);
    rig.Move(device_->ops(), *stream_, 0, tier, with_bias);
    std::vector<float> k(size_t{kCodedPageTokens} * rig.dim());
    std::vector<float> v(k.size());
    DecodeBlock(rig.formats[static_cast<size_t>(tier)].codec, rig.layout,
                rig.view().block(70, 1, 0), k.data(), v.data());
    AddKeyBias(rig.view(with_bias), 1, 0, rig.position(0, 0), 1.0F, k.data());
    double error = 0;
    for (int token = 0; token < kCodedPageTokens; ++token) {
      const std::vector<double> exact = rig.ExactKey(1, 0, 0, token);
      for (size_t i = 0; i < exact.size(); ++i) {
        error += std::pow(k[static_cast<size_t>(token) * rig.dim() + i] - exact[i], 2);
      }
    }
    return error / static_cast<double>(k.size());
  }

  std::unique_ptr<CpuDevice> device_;
  std::unique_ptr<CpuDevice> reference_;
  std::unique_ptr<Stream> stream_;
};

// What is left beside it is the rounding of hot keys to halves, 2^-11 of their size.
TEST_P(KeyBiasTest, CodedKeysAreAsGoodAsThoseOfAModelWithoutBias) {
  for (const Tier tier : {Tier::kWarm, Tier::kCold}) {
    const double without = KeyError(0.0F, tier, true);
    for (const float size : {22.0F, 300.0F, 900.0F}) {
      const double largest = 2 * size * kMagnitude / 8;  // of most of 64 coordinates
      const double rounding = std::pow(largest / 2048, 2) / 3;
      EXPECT_LT(KeyError(size, tier, true), 1.05 * without + rounding) << "bias " << size;
      EXPECT_GT(KeyError(size, tier, false), 1.3 * without) << "bias " << size;
    }
    EXPECT_GT(KeyError(900.0F, tier, false), 100 * without);
  }
}

TEST_P(KeyBiasTest, TranscodedPagesHaveTheReferencesBytesAndComeBack) {
  for (const Shape& shape : kCodedShapes) {
    Rig want(shape, 300.0F, 9, 1);
    Rig got(shape, 300.0F, 9, 1);
    for (const Tier tier : {Tier::kWarm, Tier::kCold, Tier::kHot}) {
      const std::vector<std::byte> before = got.arena;
      want.Move(reference_->ops(), *stream_, 0, tier);
      got.Move(device_->ops(), *stream_, 0, tier);
      ASSERT_EQ(got.arena, want.arena) << "head_dim " << shape.head_dim;
    }
    std::vector<float> k(size_t{kCodedPageTokens} * got.dim());
    std::vector<float> v(k.size());
    DecodeBlock(Codec::kNative, got.layout, got.view().block(9, 1, 0), k.data(), v.data());
    double error = 0;
    for (int token = 0; token < kCodedPageTokens; ++token) {
      const std::vector<double> exact = got.ExactKey(1, 0, 0, token);
      for (size_t i = 0; i < exact.size(); ++i) {
        error += std::pow(k[static_cast<size_t>(token) * got.dim() + i] - exact[i], 2);
      }
    }
    EXPECT_LT(error / static_cast<double>(k.size()), 0.05) << "head_dim " << shape.head_dim;
  }
}

// Queries so small that the bias alone makes the weights: an error in it would change them all.
std::vector<float> SmallQueries(size_t count) {
  std::mt19937_64 random(8);
  std::normal_distribution<float> normal(0.0F, 3.0F / 900);
  std::vector<float> q(count);
  for (float& x : q) {
    x = normal(random);
  }
  return q;
}

TEST_P(KeyBiasTest, AttentionIsThatOfExactKeys) {
  for (const Shape& shape : kCodedShapes) {
    Rig rig(shape, 900.0F, 0, 4);
    rig.Move(device_->ops(), *stream_, 0, Tier::kWarm);
    rig.Move(device_->ops(), *stream_, 1, Tier::kCold);
    rig.Move(device_->ops(), *stream_, 2, Tier::kCold);
    std::vector<float> q = SmallQueries(static_cast<size_t>(shape.num_heads) * rig.dim());
    const std::vector<float> got = rig.Attend(device_->ops(), *stream_, 1, q);
    for (size_t head = 0; head < static_cast<size_t>(shape.num_heads); ++head) {
      const size_t kv_head = head * rig.heads() / static_cast<size_t>(shape.num_heads);
      const std::vector<double> want = rig.Oracle(1, kv_head, q.data() + head * rig.dim());
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[head * rig.dim() + i], want[i], 5e-3) << "head_dim " << rig.dim();
      }
    }
  }
}

TEST_P(KeyBiasTest, AttentionOverMixedTiersEqualsTheReference) {
  for (const Shape& shape : kCodedShapes) {
    Rig rig(shape, 900.0F, 30, 4);
    rig.Move(device_->ops(), *stream_, 0, Tier::kWarm);
    rig.Move(device_->ops(), *stream_, 1, Tier::kCold);
    rig.Move(device_->ops(), *stream_, 2, Tier::kCold);
    std::fill_n(rig.page_map.begin(), 30, rig.page_map[31]);  // keys of other pages, any will do
    for (const int num_tokens : {1, 5}) {
      const size_t width = static_cast<size_t>(shape.num_heads) * rig.dim();
      std::vector<float> q = SmallQueries(static_cast<size_t>(num_tokens) * width);
      // Words round what is read of coded pages to 13 bits, of values of about 1.
      const float tolerance = GetParam() >= IsaLevel::kAvx512 ? 0x1p-11F : 5e-5F;
      for (const int layer : {0, 1}) {
        const std::vector<float> want = rig.Attend(reference_->ops(), *stream_, layer, q);
        const std::vector<float> got = rig.Attend(device_->ops(), *stream_, layer, q);
        for (size_t i = 0; i < want.size(); ++i) {
          ASSERT_NEAR(got[i], want[i], tolerance) << "head_dim " << rig.dim() << " layer " << layer;
        }
        std::vector<float> last(q.end() - static_cast<int64_t>(width), q.end());
        const std::vector<float> alone = rig.Attend(device_->ops(), *stream_, layer, last);
        ASSERT_EQ(0, std::memcmp(alone.data(), got.data() + got.size() - width, 4 * width))
            << "a row's result depends on its neighbours";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, KeyBiasTest, testing::ValuesIn(kIsaLevels),
                         [](const auto& param) {
                           std::string name = IsaName(param.param);
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace thermocline
