#include "engine/model/rope_scaling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/testing/fake_checkpoint.h"

namespace thermocline {
namespace {

// Figures computed in Python from the formulas of the YaRN paper (arXiv 2309.00071), 16 dimensions,
// base 10000, 2048 positions stretched by 4.
constexpr double kPlain[] = {1.000000000e+00, 3.162277660e-01, 1.000000000e-01, 3.162277660e-02,
                             1.000000000e-02, 3.162277660e-03, 1.000000000e-03, 3.162277660e-04};
constexpr double kYarn[] = {1.000000000e+00, 3.162277660e-01, 1.000000000e-01, 2.569350599e-02,
                            6.250000000e-03, 1.383496476e-03, 2.500000000e-04, 7.905694150e-05};
constexpr double kYarnMagnitude = 1.138629436;

ModelConfig Config() {
  ModelConfig config;
  config.architecture = "llama";
  config.rope_dim = 16;
  config.context_length = 8192;
  return config;
}

void ExpectFrequencies(const FakeCheckpoint& checkpoint, const std::vector<double>& want,
                       double magnitude = 1) {
  ModelConfig config = Config();
  const Status status = ReadRopeScaling(checkpoint, config);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(config.rope_frequencies.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_NEAR(config.rope_frequencies[i] / want[i], 1.0, 1e-6) << "pair " << i;
  }
  EXPECT_NEAR(config.rope_magnitude, magnitude, 1e-6);
}

std::vector<double> Plain(double divisor = 1) {
  std::vector<double> out;
  for (const double frequency : kPlain) {
    out.push_back(frequency / divisor);
  }
  return out;
}

TEST(RopeScaling, WithoutMetadataIsPlain) { ExpectFrequencies(FakeCheckpoint(), Plain()); }

TEST(RopeScaling, BaseIsTheFiles) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.freq_base", 100000000.0);  // the square: twice as fast a decay
  std::vector<double> want = Plain();
  for (double& frequency : want) {
    frequency *= frequency;
  }
  ExpectFrequencies(checkpoint, want);
}

TEST(RopeScaling, LinearDividesEveryFrequency) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.scaling.type", "linear").Set("llama.rope.scaling.factor", 4.0);
  ExpectFrequencies(checkpoint, Plain(4));
}

TEST(RopeScaling, OldFilesNameLinearScalingOtherwise) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.scale_linear", 2.0);
  ExpectFrequencies(checkpoint, Plain(2));
}

TEST(RopeScaling, YarnKeepsFastWavesAndStretchesSlowOnes) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.scaling.type", "yarn")
      .Set("llama.rope.scaling.factor", 4.0)
      .Set("llama.rope.scaling.original_context_length", 2048);
  ExpectFrequencies(checkpoint, {std::begin(kYarn), std::end(kYarn)}, kYarnMagnitude);
}

TEST(RopeScaling, OfAFactorWithoutATypeIsLinear) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.scaling.factor", 4.0);
  ExpectFrequencies(checkpoint, Plain(4));
}

TEST(RopeScaling, NoneLeavesTheFactorAside) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.scaling.type", "none").Set("llama.rope.scaling.factor", 4.0);
  ExpectFrequencies(checkpoint, Plain());
}

TEST(RopeScaling, YarnsOriginalContextIsTheModelsUnlessItIsNamed) {
  FakeCheckpoint named;
  named.Set("llama.rope.scaling.type", "yarn").Set("llama.rope.scaling.factor", 4.0);
  FakeCheckpoint absent = named;
  named.Set("llama.rope.scaling.original_context_length", 8192);  // context_length
  ModelConfig want = Config();
  ModelConfig got = Config();
  ASSERT_TRUE(ReadRopeScaling(named, want).ok());
  ASSERT_TRUE(ReadRopeScaling(absent, got).ok());
  EXPECT_EQ(got.rope_frequencies, want.rope_frequencies);
}

TEST(RopeScaling, AttentionFactorsMultiplyTheMagnitude) {
  FakeCheckpoint checkpoint;
  checkpoint.Set("llama.rope.scaling.attn_factor", 1.25);
  ExpectFrequencies(checkpoint, Plain(), 1.25);
  checkpoint.Set("llama.rope.scaling.type", "yarn")
      .Set("llama.rope.scaling.factor", 4.0)
      .Set("llama.rope.scaling.original_context_length", 2048)
      .Set("llama.rope.scaling.yarn_attn_factor", 2.0)
      .Set("llama.rope.scaling.yarn_ext_factor", 1.0);
  ExpectFrequencies(checkpoint, {std::begin(kYarn), std::end(kYarn)}, 2.5 * kYarnMagnitude);
}

TEST(RopeScaling, Llama3FactorsDivideTheirPairs) {
  const std::vector<float> factors = {1, 1, 1, 1.5F, 2, 4, 8, 8};
  FakeCheckpoint checkpoint;
  checkpoint.SetTensor("rope_freqs.weight", factors);
  std::vector<double> want = Plain();
  for (size_t i = 0; i < want.size(); ++i) {
    want[i] /= static_cast<double>(factors[i]);
  }
  ExpectFrequencies(checkpoint, want);
}

TEST(RopeScaling, BadValuesNameTheirField) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<FakeCheckpoint, std::string>> cases = {
      {FakeCheckpoint().Set("llama.rope.freq_base", 1.0), "llama.rope.freq_base"},
      {FakeCheckpoint().Set("llama.rope.freq_base", nan), "llama.rope.freq_base"},
      {FakeCheckpoint().Set("llama.rope.scaling.factor", 0.0), "llama.rope.scaling.factor"},
      {FakeCheckpoint().Set("llama.rope.scaling.factor", -2.0), "llama.rope.scaling.factor"},
      {FakeCheckpoint().Set("llama.rope.scaling.type", "longrope"), "llama.rope.scaling.type"},
      {FakeCheckpoint()
           .Set("llama.rope.scaling.type", "yarn")
           .Set("llama.rope.scaling.yarn_beta_fast", 0.0),
       "yarn_beta_fast"},
      {FakeCheckpoint().Set("llama.rope.scaling.factor", nan), "llama.rope.scaling.factor"},
      {FakeCheckpoint().Set("llama.rope.scale_linear", 0.0), "llama.rope.scale_linear"},
      {FakeCheckpoint().Set("llama.rope.scaling.attn_factor", 0.0), "scaling.attn_factor"},
      {FakeCheckpoint().Set("llama.rope.scaling.attn_factor", nan), "scaling.attn_factor"},
      {FakeCheckpoint().Set("llama.rope.scaling.yarn_ext_factor", 1.0), "yarn_ext_factor"},
      {FakeCheckpoint().Set("llama.rope.scaling.type", "a\nb"), "\"a\\x0ab\""},
      {FakeCheckpoint().SetTensor("rope_freqs.weight", {1, 1}), "rope_freqs.weight"},
      {FakeCheckpoint().SetTensor("rope_freqs.weight", {1, 1, 1, 1, 1, 1, 1, 0}),
       "rope_freqs.weight"},
  };
  for (const auto& [checkpoint, field] : cases) {
    ModelConfig config = Config();
    const Status status = ReadRopeScaling(checkpoint, config);
    EXPECT_FALSE(status.ok()) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace thermocline
