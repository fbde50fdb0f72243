#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/quantize.h"
#include "kernels/cuda/attention/level_bytes.h"
#include "kernels/cuda/attention/shape.h"
#include "kernels/quant/page_codec.h"
#include "tests/kernels/cuda/attention_rig.h"

namespace thermocline {
namespace {

constexpr int kDims[] = {64, 80, 128, 256};

TEST(LevelBytes, AreNearlyTheLevels) {
  const std::pair<int, double> most_off[] = {{2, 3e-4}, {3, 1.3e-3}, {4, 4e-3}};
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  for (const int dim : {64, 80, 96, 128, 256}) {
    for (const auto& [bits, most] : most_off) {
      const Codebook& book = CodebookFor(dim, bits);
      const LevelBytes bytes = LevelBytesOf(book);
      double error = 0;
      double square = 0;
      double rest_error = 0;
      for (int i = 0; i < 10000; ++i) {
        const int code = CodeOf(normal(random), book);
        const auto byte = static_cast<int8_t>(bytes.words[code / 4] >> 8 * (code % 4));
        const auto rest = static_cast<int8_t>(bytes.rest[code / 4] >> 8 * (code % 4));
        error += std::pow(byte * bytes.step - book.levels[code], 2);
        rest_error += std::pow((byte + rest / 128.0) * bytes.step - book.levels[code], 2);
        square += std::pow(book.levels[code], 2);
      }
      EXPECT_LT(std::sqrt(error / square), most) << bits << " bits, head size " << dim;
      EXPECT_LT(std::sqrt(rest_error / square), 1e-4) << bits << " bits, head size " << dim;
    }
  }
}

TEST(BlockParts, AreTheCodecs) {
  const std::pair<Codec, std::pair<int, int>> codecs[] = {
      {Codec::kInt8, {8, 8}},    {Codec::kTurbo3, {3, 3}},     {Codec::kTurboK4V3, {4, 3}},
      {Codec::kMerged2, {2, 2}}, {Codec::kMergedK3V2, {3, 2}},
  };
  for (const auto& [codec, bits] : codecs) {
    for (int dim = 8; dim <= 256; dim += 8) {
      const BlockLayout want =
          BlockLayoutOf(codec, {.num_layers = 1, .num_kv_heads = 1, .head_dim = dim});
      const BlockParts got = BlockPartsOf(bits.first, bits.second, IsMerged(codec) ? 48 : 64, dim);
      EXPECT_EQ(got.key_scales, static_cast<int>(want.k_scales));
      EXPECT_EQ(got.values, static_cast<int>(want.v_codes));
      EXPECT_EQ(got.value_scales, static_cast<int>(want.v_scales));
      EXPECT_EQ(got.bytes, static_cast<int>(want.bytes));
      if (IsMerged(codec)) {
        EXPECT_EQ(got.log_weights, static_cast<int>(want.log_weights));
      }
    }
  }
}

// Pages of one codec, and a last hot one, where a token is appended before it is read.
struct CodecCase {
  const char* name;
  Tier tier;
  Codec cold = Codec::kTurbo3;
  Codec archive = Codec::kMerged2;
  double most_off = 8e-3;  // from ReferenceOps
};

class AttentionCodecTest : public testing::TestWithParam<CodecCase> {};

TEST_P(AttentionCodecTest, IsTheReferencesForEveryHeadSizeAndGroup) {
  const CodecCase& codec = GetParam();
  int group = 1;
  for (const int dim : kDims) {
    for (int i = 0; i < (kThinTests ? 1 : 3); ++i, group = group == 8    ? 16
                                                           : group == 16 ? 1
                                                                         : group + 1) {
      const RigShape shape{.dim = dim,
                           .kv_heads = 1 + i % 2,
                           .group = group,
                           .cold = codec.cold,
                           .archive = codec.archive,
                           .seed = static_cast<uint64_t>(dim + i)};
      std::vector<Tier> pages(static_cast<size_t>(1 + 2 * i), codec.tier);
      pages.push_back(Tier::kHot);
      AttentionRig rig(shape, {{pages, 64 * (1 + 2 * i) + 1}});
      const RigResult got = rig.Run();
      const RigResult exact = rig.Exact();
      const RigResult reference = rig.Reference();
      SCOPED_TRACE("head size " + std::to_string(dim) + ", group " + std::to_string(group));
      EXPECT_LT(WorstRowError(got.out, exact.out, dim), 2e-4);
      EXPECT_LT(WorstRowError(got.out, reference.out, dim), codec.most_off);
      EXPECT_LT(WorstEnergyError(got.energies, exact.energies), 2e-3);
      EXPECT_LT(WorstEnergyError(got.energies, reference.energies), 2e-2);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Codecs, AttentionCodecTest,
    testing::Values(
        CodecCase{.name = "Hot", .tier = Tier::kHot, .most_off = 5e-4},
        CodecCase{.name = "Warm", .tier = Tier::kWarm, .most_off = 5e-4},
        CodecCase{.name = "Turbo3", .tier = Tier::kCold},
        CodecCase{.name = "K4V3", .tier = Tier::kCold, .cold = Codec::kTurboK4V3},
        CodecCase{.name = "Merged2", .tier = Tier::kArchive},
        CodecCase{.name = "MergedK3V2", .tier = Tier::kArchive, .archive = Codec::kMergedK3V2}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace thermocline
