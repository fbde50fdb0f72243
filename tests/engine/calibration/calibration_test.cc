#include "engine/calibration/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/calibration/calibration_file.h"
#include "engine/calibration/calibrator.h"
#include "engine/calibration/query_moments.h"
#include "tests/testing/tiny_model.h"

namespace thermocline {
namespace {

class CalibrationTest : public testing::Test {
 protected:
  // Of a model whose steps have at most `max_tokens`, in pieces that `next_piece` gives.
  Calibration Run(
      bool every_layer, int max_tokens = kTinyPageTokens,
      const std::function<int()>& next_piece = [] { return kTinyPageTokens; }) {
    Transformer model = tiny_.Load(max_tokens);
    const auto calibrator = Begin(model, every_layer, {.formats = DefaultKvFormats(tiny_.layout)});
    while (!calibrator->done()) {
      EXPECT_TRUE(calibrator->Step(next_piece()).ok());
      progress_.push_back(calibrator->fraction());
    }
    EXPECT_LE(calibrator->num_tokens_read(), Calibrator::kMaxTokensRead);
    return calibrator->calibration();
  }
  std::unique_ptr<Calibrator> Begin(Transformer& model, bool every_layer, Calibration begun) {
    return Calibrator::Create(model, *tiny_.device, tiny_.layout, std::move(begun),
                              tiny_.CopiedText(16), every_layer)
        .value();
  }
  static void ExpectSame(const Calibration& a, const Calibration& b) {
    EXPECT_EQ(a.formats.cold, b.formats.cold);
    EXPECT_EQ(a.formats.mean_keys, b.formats.mean_keys);
    EXPECT_EQ(a.formats.query_factors, b.formats.query_factors);
    EXPECT_EQ(a.probe_layers, b.probe_layers);
    EXPECT_EQ(a.warm_kl, b.warm_kl);
    EXPECT_EQ(a.uniform_kl, b.uniform_kl);
    EXPECT_EQ(a.cold_kl, b.cold_kl);
    EXPECT_EQ(a.layer_kl, b.layer_kl);
    EXPECT_EQ(a.layer_is_measured, b.layer_is_measured);
  }

  TinyModel tiny_;
  std::vector<double> progress_;
};

TEST_F(CalibrationTest, ColderPagesDivergeMoreAndEveryLayerTakesPart) {
  const Calibration calibration = Run(true);
  EXPECT_GT(calibration.warm_kl, 0);
  EXPECT_GT(calibration.uniform_kl, 10 * calibration.warm_kl);
  EXPECT_LE(calibration.cold_kl, calibration.uniform_kl);
  EXPECT_EQ(calibration.layer_is_measured, std::vector<uint8_t>(3, 1));
  ASSERT_EQ(calibration.layer_kl.size(), 3U);
  for (const float kl : calibration.layer_kl) {
    EXPECT_GT(kl, 0);
    EXPECT_LT(kl, 2 * calibration.uniform_kl);
  }
  EXPECT_EQ(calibration.formats.mean_keys.size(), size_t{3} * 2 * 16);
  EXPECT_EQ(calibration.formats.query_factors.size(), size_t{3} * 2 * 16 * 16);
  EXPECT_EQ(calibration.probe_layers, (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(std::is_sorted(progress_.begin(), progress_.end()));
  EXPECT_EQ(progress_.back(), 1);
  const auto cold_ratio = [&](const KvFormats& formats) {
    const auto bytes = PageBytes(tiny_.layout, formats);
    return static_cast<double>(bytes[0]) / bytes[2];
  };
  EXPECT_GE(cold_ratio(calibration.formats),
            std::min(cold_ratio(DefaultKvFormats(tiny_.layout)), kMinColdRatio));
}

// However it is cut, and whatever the model is used for in between: the same bits.
TEST_F(CalibrationTest, DoesNotDependOnHowItIsCut) {
  const Calibration whole = Run(true);
  ExpectSame(whole, Run(true, 20));
  std::mt19937 random(7);
  ExpectSame(whole,
             Run(true, kTinyPageTokens, [&] { return static_cast<int>(1 + random() % 64); }));

  Transformer model = tiny_.Load(kTinyPageTokens);
  const auto calibrator = Begin(model, true, {.formats = DefaultKvFormats(tiny_.layout)});
  const auto other =
      CalibrationPass::Create(model, *tiny_.device, tiny_.layout, DefaultKvFormats(tiny_.layout), 2)
          .value();
  const std::vector<TokenId> text = tiny_.CopiedText(2);
  for (int i = 0; !calibrator->done(); ++i) {
    ASSERT_TRUE(calibrator->Step(48).ok());
    ASSERT_TRUE(other->ReadChunk(text, i / 2 % 2, i % 2 * 32, 32).ok());
  }
  ExpectSame(whole, calibrator->calibration());
}

TEST_F(CalibrationTest, GoesOnFromWhatAnEarlierOneHadKept) {
  const Calibration whole = Run(true);
  Transformer model = tiny_.Load(kTinyPageTokens);
  const auto first = Begin(model, true, {.formats = DefaultKvFormats(tiny_.layout)});
  ASSERT_TRUE(first->Finish().ok());
  const int num_results = first->num_results();
  for (int stop_at = 1; stop_at < num_results; ++stop_at) {
    const auto stopped = Begin(model, true, {.formats = DefaultKvFormats(tiny_.layout)});
    while (stopped->num_results() < stop_at) {
      ASSERT_TRUE(stopped->Step(kTinyPageTokens).ok());
    }
    Calibration kept = stopped->calibration();
    kept.formats = DefaultKvFormats(tiny_.layout);
    const auto second = Begin(model, true, std::move(kept));
    ASSERT_TRUE(second->Finish().ok());
    ExpectSame(whole, second->calibration());
    EXPECT_LE(second->num_tokens_read(), first->num_tokens_read());
  }
}

// A model of many layers: those that lose least by the rule are not measured, and still count.
TEST(Calibrator, ReadsABoundedTextWhateverTheModel) {
  TinyModel tiny(60, /*hidden_size=*/16);
  Transformer model = tiny.Load(kTinyPageTokens);
  const auto calibrator =
      Calibrator::Create(model, *tiny.device, tiny.layout,
                         {.formats = DefaultKvFormats(tiny.layout)}, tiny.CopiedText(32), true)
          .value();
  ASSERT_TRUE(calibrator->Finish().ok());
  EXPECT_LE(calibrator->num_tokens_read(), Calibrator::kMaxTokensRead);
  const Calibration& calibration = calibrator->calibration();
  const auto num_measured =
      std::count(calibration.layer_is_measured.begin(), calibration.layer_is_measured.end(), 1);
  EXPECT_GT(num_measured, 30);
  EXPECT_LT(num_measured, 60);
  for (const float kl : calibration.layer_kl) {
    EXPECT_GT(kl, 0);
  }
}

TEST(Calibrator, OfATextInWhichNoPageCoolsThereIsNothingToMeasure) {
  TinyModel tiny;
  Transformer model = tiny.Load(kTinyPageTokens);
  const auto calibrator =
      Calibrator::Create(model, *tiny.device, tiny.layout,
                         {.formats = DefaultKvFormats(tiny.layout)}, tiny.CopiedText(4), true)
          .value();
  EXPECT_TRUE(calibrator->done());
  EXPECT_FALSE(calibrator->calibration().measures_layers());
}

TEST(QueryMoments, AreOfTheHeadsThatReadAKeyWithAnIsotropicPart) {
  const KvLayout layout{.num_layers = 2, .num_kv_heads = 2, .head_dim = 2, .page_tokens = 64};
  QueryMoments moments(layout, 4);
  // Two tokens; four query heads, then K and V of two heads, which do not count.
  std::vector<float> qkv = {3, 0, 0, 1, 0, 0, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9,
                            1, 0, 0, 1, 0, 0, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9};
  moments.Observe(1, qkv.data(), 2, 16);
  const std::vector<float> got = moments.Moments();
  ASSERT_EQ(got.size(), size_t{2} * 2 * 2 * 2);
  const auto expect = [&](size_t head, const std::vector<float>& want) {
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(got[4 * head + i], want[i], 1e-6F) << head << ' ' << i;
    }
  };
  constexpr float kPart = QueryMoments::kIsotropicPart;
  constexpr float kWhole = 1 + kPart;
  expect(0, {1, 0, 0, 1});  // nothing was seen of layer 0
  // Head 0 saw (3, 0), (0, 1), (1, 0), (0, 1): the mean squares 2.5 and 0.5, halved as attention
  // divides scores by the root of 2.
  expect(2, {(1.25F + 0.75F * kPart) / kWhole, 0, 0, (0.25F + 0.75F * kPart) / kWhole});
  expect(3, {0.25F, 0.25F / kWhole, 0.25F / kWhole, 0.25F});
}

TEST_F(CalibrationTest, TableNamesEveryLayerAndTheWhole) {
  const Calibration calibration = Run(true);
  const std::string table = FormatCalibration(calibration, tiny_.layout);
  EXPECT_NE(table.find("all pages cold"), std::string::npos);
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 1 + 3 + 2);
}

class CalibrationFile : public testing::Test {
 protected:
  CalibrationFile()
      : directory_(testing::TempDir() + "calibration_" +
                   testing::UnitTest::GetInstance()->current_test_info()->name()),
        path_(CalibrationPath(directory_, key_)) {
    std::filesystem::remove_all(directory_);
    calibration_.formats = {
        .cold = {Codec::kTurbo3, Codec::kTurboK4V3},
        .mean_keys = {1, 2, 3, 4, 5, 6, 7, 8},
        .query_factors = std::vector<float>(32, 0.5F),
    };
    calibration_.probe_layers = {1};
    calibration_.warm_kl = 0.5;
    calibration_.cold_kl = 0.25;
    calibration_.uniform_kl = 0.75;
    calibration_.layer_kl = {0.125F, 2};
    calibration_.layer_is_measured = {1, 0};
  }
  ~CalibrationFile() override { std::filesystem::remove_all(directory_); }

  std::string Bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void SetBytes(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  CalibrationKey key_{.low = 1, .high = 2};
  KvLayout layout_{.num_layers = 2, .num_kv_heads = 1, .head_dim = 4, .page_tokens = 64};
  std::string directory_;
  std::string path_;
  Calibration calibration_;
};

TEST_F(CalibrationFile, HoldsWhatWasWritten) {
  ASSERT_TRUE(WriteCalibration(path_, key_, layout_, calibration_).ok());
  const Result<Calibration> read = ReadCalibration(path_, key_, layout_);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->formats.cold, calibration_.formats.cold);
  EXPECT_EQ(read->formats.mean_keys, calibration_.formats.mean_keys);
  EXPECT_EQ(read->formats.query_factors, calibration_.formats.query_factors);
  EXPECT_EQ(read->probe_layers, calibration_.probe_layers);
  EXPECT_EQ(read->warm_kl, 0.5);
  EXPECT_EQ(read->cold_kl, 0.25);
  EXPECT_EQ(read->uniform_kl, 0.75);
  EXPECT_EQ(read->layer_kl, calibration_.layer_kl);
  EXPECT_EQ(read->layer_is_measured, calibration_.layer_is_measured);
}

TEST_F(CalibrationFile, IsAbsentUntilWritten) {
  EXPECT_EQ(ReadCalibration(path_, key_, layout_).status().code(), StatusCode::kNotFound);
}

TEST_F(CalibrationFile, AnyDamageIsFound) {
  ASSERT_TRUE(WriteCalibration(path_, key_, layout_, calibration_).ok());
  const std::string whole = Bytes();
  for (size_t length = 0; length < whole.size(); ++length) {
    SetBytes(whole.substr(0, length));
    ASSERT_EQ(ReadCalibration(path_, key_, layout_).status().code(), StatusCode::kDataLoss)
        << length;
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    SetBytes(flipped);
    ASSERT_EQ(ReadCalibration(path_, key_, layout_).status().code(), StatusCode::kDataLoss) << at;
  }
}

TEST_F(CalibrationFile, OfAnotherModelIsRefused) {
  ASSERT_TRUE(WriteCalibration(path_, key_, layout_, calibration_).ok());
  KvLayout other = layout_;
  other.num_layers = 3;
  EXPECT_EQ(ReadCalibration(path_, key_, other).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(ReadCalibration(path_, {.low = 1, .high = 3}, layout_).status().code(),
            StatusCode::kDataLoss);
}

// Its checksum is right and its numbers are not: a page reader must never see them.
TEST_F(CalibrationFile, UnsoundNumbersAreRefused) {
  const auto refused = [&](const Calibration& calibration) {
    EXPECT_TRUE(WriteCalibration(path_, key_, layout_, calibration).ok());
    return ReadCalibration(path_, key_, layout_).status().code() == StatusCode::kDataLoss;
  };
  Calibration bad = calibration_;
  bad.formats.cold.push_back(Codec::kTurbo3);
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.formats.cold[0] = Codec::kMerged2;
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.formats.mean_keys[3] = NAN;
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.formats.query_factors[31] = INFINITY;
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.formats.query_factors.pop_back();
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.probe_layers = {2};
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.layer_kl[1] = NAN;
  EXPECT_TRUE(refused(bad));
  bad = calibration_;
  bad.layer_is_measured.pop_back();
  EXPECT_TRUE(refused(bad));
}

TEST_F(CalibrationFile, AnUnwritablePlaceIsAnError) {
  const std::string file = testing::TempDir() + "calibration_is_a_file";
  std::ofstream(file) << "x";
  const Status status = WriteCalibration(CalibrationPath(file, key_), key_, layout_, calibration_);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  std::filesystem::remove(file);
}

TEST(CalibrationKey, ChangesWithTheModelTheTextAndTheLayout) {
  const ContentHash model{.low = 1, .high = 2};
  const ContentHash other{.low = 1, .high = 3};
  const std::vector<TokenId> tokens = {1, 2};
  const std::vector<TokenId> other_tokens = {1, 3};
  const KvLayout layout{.num_layers = 1, .num_kv_heads = 1, .head_dim = 4, .page_tokens = 64};
  KvLayout other_layout = layout;
  other_layout.head_dim = 8;
  const CalibrationKey key = CalibrationKeyOf(model, tokens, layout);
  EXPECT_EQ(key, CalibrationKeyOf(model, tokens, layout));
  EXPECT_FALSE(key == CalibrationKeyOf(other, tokens, layout));
  EXPECT_FALSE(key == CalibrationKeyOf(model, other_tokens, layout));
  EXPECT_FALSE(key == CalibrationKeyOf(model, tokens, other_layout));
}

}  // namespace
}  // namespace thermocline
