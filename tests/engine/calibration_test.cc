#include "engine/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>

#include "engine/calibration_file.h"
#include "engine/query_moments.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/testing/fake_checkpoint.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;
constexpr int kVocab = 61;

ModelConfig TinyConfig() {
  ModelConfig config;
  config.num_layers = 3;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = kVocab;
  config.context_length = 2048;
  config.tied_embeddings = true;
  config.rope_dim = 16;
  for (int i = 0; i < 8; ++i) {
    config.rope_frequencies.push_back(std::pow(10000.0F, -static_cast<float>(i) / 8));
  }
  return config;
}

// Random weights, large enough for attention to be peaked.
FakeCheckpoint TinyCheckpoint(const ModelConfig& config) {
  std::mt19937 random(1);
  FakeCheckpoint checkpoint;
  const auto matrix = [&](const std::string& name, int rows, int cols, float size) {
    std::normal_distribution<float> normal(0, size / std::sqrt(static_cast<float>(cols)));
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& value : values) {
      value = normal(random);
    }
    checkpoint.SetTensor(name, std::move(values), cols);
  };
  const int hidden = config.hidden_size;
  const std::vector<float> ones(static_cast<size_t>(hidden), 1.0F);
  matrix("token_embd.weight", kVocab, hidden, 8);
  checkpoint.SetTensor("output_norm.weight", ones);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const int q = config.num_heads * config.head_dim;
    const int kv = config.num_kv_heads * config.head_dim;
    checkpoint.SetTensor(prefix + "attn_norm.weight", ones);
    checkpoint.SetTensor(prefix + "ffn_norm.weight", ones);
    matrix(prefix + "attn_q.weight", q, hidden, 2);
    matrix(prefix + "attn_k.weight", kv, hidden, 2);
    matrix(prefix + "attn_v.weight", kv, hidden, 1);
    matrix(prefix + "attn_output.weight", hidden, q, 1);
    matrix(prefix + "ffn_gate.weight", config.intermediate_size, hidden, 1);
    matrix(prefix + "ffn_up.weight", config.intermediate_size, hidden, 1);
    matrix(prefix + "ffn_down.weight", hidden, config.intermediate_size, 1);
  }
  return checkpoint;
}

class CalibrationTest : public testing::Test {
 protected:
  CalibrationTest()
      : config_(TinyConfig()),
        checkpoint_(TinyCheckpoint(config_)),
        device_(CpuDevice::Create({.num_threads = 2}).value()),
        layout_(MakeKvLayout(config_, kPageTokens)) {}

  Calibration Run(bool every_layer, int max_tokens, const std::function<void(double)>& report) {
    Transformer model =
        Transformer::Load(config_, checkpoint_, *device_, device_->ops(), max_tokens, {}).value();
    std::mt19937 random(2);
    std::vector<TokenId> tokens;
    for (int i = 0; i < 8 * kPageTokens; ++i) {
      tokens.push_back(static_cast<TokenId>(random() % kVocab));
    }
    const std::vector<TokenId> copy = tokens;
    tokens.insert(tokens.end(), copy.begin(), copy.end());
    return Calibrate(model, *device_, layout_, DefaultKvFormats(layout_), tokens, every_layer,
                     report)
        .value();
  }

  ModelConfig config_;
  FakeCheckpoint checkpoint_;
  std::unique_ptr<CpuDevice> device_;
  KvLayout layout_;
};

TEST_F(CalibrationTest, ColderPagesDivergeMoreAndEveryLayerTakesPart) {
  std::vector<double> progress;
  const Calibration calibration =
      Run(true, kPageTokens, [&](double fraction) { progress.push_back(fraction); });
  EXPECT_GT(calibration.warm_kl, 0);
  EXPECT_GT(calibration.uniform_kl, 10 * calibration.warm_kl);
  EXPECT_LE(calibration.cold_kl, calibration.uniform_kl);
  ASSERT_EQ(calibration.layer_kl.size(), 3U);
  for (const float kl : calibration.layer_kl) {
    EXPECT_GT(kl, 0);
    EXPECT_LT(kl, 2 * calibration.uniform_kl);
  }
  EXPECT_EQ(calibration.formats.mean_keys.size(), size_t{3} * 2 * 16);
  EXPECT_EQ(calibration.formats.query_factors.size(), size_t{3} * 2 * 16 * 16);
  EXPECT_EQ(calibration.probe_layers, (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  EXPECT_LE(progress.back(), 1);
  EXPECT_GE(progress.back(), 0.7);
  const double ratio = static_cast<double>(PageBytes(layout_, calibration.formats)[0]) /
                       PageBytes(layout_, calibration.formats)[2];
  const double uniform = static_cast<double>(PageBytes(layout_, DefaultKvFormats(layout_))[0]) /
                         PageBytes(layout_, DefaultKvFormats(layout_))[2];
  EXPECT_GE(ratio, std::min(uniform, kMinColdRatio));
}

// Chunks of a step smaller than a page, another order of the same arithmetic: the same bits.
TEST_F(CalibrationTest, DoesNotDependOnHowLongAStepIs) {
  const Calibration whole = Run(false, kPageTokens, {});
  const Calibration pieces = Run(false, 20, {});
  EXPECT_EQ(whole.formats.mean_keys, pieces.formats.mean_keys);
  EXPECT_EQ(whole.formats.query_factors, pieces.formats.query_factors);
  EXPECT_EQ(whole.uniform_kl, pieces.uniform_kl);
}

TEST(QueryMoments, AreOfTheHeadsThatReadAKeyWithAnIsotropicPart) {
  const KvLayout layout{.num_layers = 2, .num_kv_heads = 2, .head_dim = 2, .page_tokens = 64};
  QueryMoments moments(layout, 4);
  // Two tokens; four query heads, then K and V of two heads, which do not count.
  std::vector<float> qkv = {3, 0, 0, 1, 0, 0, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9,
                            1, 0, 0, 1, 0, 0, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9};
  moments.Observe(1, Tensor(qkv.data(), {2, 16}));
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
  const Calibration calibration = Run(true, kPageTokens, {});
  const std::string table = FormatCalibration(calibration, layout_);
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
