#include "kernels/quant/page_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/hadamard.h"
#include "kernels/core/half.h"
#include "kernels/core/quantize.h"
#include "kernels/cpu/isa/isa_level.h"
#include "kernels/cpu/isa/isa_table.h"
#include "kernels/quant/query_factors.h"
#include "kernels/quant/rotation.h"
#include "tests/testing/isa_tables.h"

namespace thermocline {
namespace {

constexpr uint64_t kSeed = 20504;

// Rotated vectors [num_vectors, dim] whose coordinates were Gaussian or Student t with 3 degrees.
std::vector<float> RotatedVectors(int num_vectors, int dim, bool heavy_tailed) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> student(3);
  const std::vector<float> signs = RotationSigns(dim, kSeed);
  std::vector<float> x(static_cast<size_t>(num_vectors) * static_cast<size_t>(dim));
  for (float& value : x) {
    value = heavy_tailed ? student(random) : normal(random);
  }
  for (int i = 0; i < num_vectors; ++i) {
    RotateForward(x.data() + int64_t{i} * dim, signs.data(), dim);
  }
  return x;
}

struct Distortion {
  double error = 0;  // mean of |y - x|^2 / |x|^2
  double slope = 0;  // mean of <y, x> / |x|^2: of <q, y> over <q, x> for queries in any direction
};

// Of K (or V) through whole pages.
Distortion Measure(Codec codec, int dim, bool heavy_tailed, bool values) {
  const KvLayout layout{1, 1, dim, 64};
  constexpr int kPages = 300;
  const std::vector<float> x = RotatedVectors(64 * kPages, dim, heavy_tailed);
  const auto page_size = static_cast<size_t>(64 * dim);
  std::vector<std::byte> block(BlockLayoutOf(codec, layout).bytes);
  std::vector<float> k(page_size);
  std::vector<float> v(page_size);
  Distortion mean;
  for (size_t page = 0; page < kPages; ++page) {
    const float* in = x.data() + page * page_size;
    EXPECT_TRUE(EncodeBlock(codec, layout, ReferenceQuantizer(), in, in, block.data()).ok());
    DecodeBlock(codec, layout, block.data(), k.data(), v.data());
    const std::vector<float>& y = values ? v : k;
    for (size_t t = 0; t < 64; ++t) {
      double error = 0;
      double dot = 0;
      double norm = 0;
      for (size_t i = t * static_cast<size_t>(dim); i < (t + 1) * static_cast<size_t>(dim); ++i) {
        const double exact = in[i];
        error += (y[i] - exact) * (y[i] - exact);
        dot += y[i] * exact;
        norm += exact * exact;
      }
      mean.error += error / norm / (64 * kPages);
      mean.slope += dot / norm / (64 * kPages);
    }
  }
  return mean;
}

struct Expected {
  Codec codec;
  int head_dim;
  double error;  // norm-corrected, Gaussian vectors
  double slope;
};

// Simulated apart from this code with numpy: random-sign Hadamard, 40,000 vectors.
constexpr Expected kExpected[] = {
    {Codec::kTurbo3, 64, 0.032793, 0.983603},  {Codec::kTurboK4V3, 64, 0.008823, 0.995588},
    {Codec::kTurbo3, 128, 0.033814, 0.983093}, {Codec::kTurboK4V3, 128, 0.009186, 0.995407},
    {Codec::kTurbo3, 256, 0.034321, 0.982840}, {Codec::kTurboK4V3, 256, 0.009353, 0.995323},
};

TEST(PageCodec, DistortionAndSlopeAreThoseOfTheMethod) {
  for (const Expected& expected : kExpected) {
    const bool values = expected.codec == Codec::kTurbo3;
    const Distortion got = Measure(expected.codec, expected.head_dim, false, values);
    EXPECT_NEAR(got.error, expected.error, 0.01 * expected.error) << expected.head_dim;
    EXPECT_NEAR(got.slope, expected.slope, 0.002) << expected.head_dim;
  }
}

// Of queries that have half of their second moment in one direction, which all coordinates share.
std::vector<float> LopsidedFactors(int dim) {
  std::vector<float> moments(static_cast<size_t>(dim * dim), 0.5F);
  for (int i = 0; i < dim; ++i) {
    moments[static_cast<size_t>(i * dim + i)] = 1.0F;
  }
  return FactorQueryMoments(moments, dim);
}

// x^T M y for the moments of LopsidedFactors.
double LopsidedProduct(std::span<const float> x, std::span<const float> y) {
  double sum_x = 0;
  double sum_y = 0;
  double dot = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum_x += x[i];
    sum_y += y[i];
    dot += double{x[i]} * y[i];
  }
  return 0.5 * dot + 0.5 * sum_x * sum_y;
}

struct RoundedKeys {
  Codec codec;
  int head_dim;
  double plain;    // mean e^T M e of TurboQuant's codes, beside the mean of x^T M x
  double rounded;  // the same of codes chosen for M
};

// Simulated apart from this code with numpy, 20,000 vectors. What rounding for the queries is for:
// their scores lose half of the noise and all of the bias, at equal bits.
TEST(PageCodec, KeysRoundedForQueriesLoseWhatTheMethodSays) {
  constexpr RoundedKeys kRounded[] = {{Codec::kTurbo3, 64, 0.03262, 0.017281},
                                      {Codec::kTurboK4V3, 64, 0.008835, 0.004567},
                                      {Codec::kTurbo3, 128, 0.033707, 0.017560},
                                      {Codec::kTurboK4V3, 128, 0.009091, 0.004724}};
  for (const RoundedKeys& expected : kRounded) {
    const KvLayout layout{1, 1, expected.head_dim, 64};
    const auto dim = static_cast<size_t>(expected.head_dim);
    const std::vector<float> factors = LopsidedFactors(expected.head_dim);
    const std::vector<float> x = RotatedVectors(64 * 300, expected.head_dim, false);
    std::vector<std::byte> block(BlockLayoutOf(expected.codec, layout).bytes);
    std::vector<float> k(64 * dim);
    std::vector<float> v(64 * dim);
    const auto measure = [&](const float* query_factors) {
      double error = 0;
      double size = 0;
      double product = 0;
      for (size_t page = 0; page < 300; ++page) {
        const float* in = x.data() + page * 64 * dim;
        EXPECT_TRUE(EncodeBlock(expected.codec, layout, ReferenceQuantizer(), in, in, block.data(),
                                query_factors)
                        .ok());
        DecodeBlock(expected.codec, layout, block.data(), k.data(), v.data());
        for (size_t t = 0; t < 64; ++t) {
          const std::span<const float> key(in + t * dim, dim);
          const std::span<const float> coded(k.data() + t * dim, dim);
          std::vector<float> lost(dim);
          for (size_t i = 0; i < dim; ++i) {
            lost[i] = key[i] - coded[i];
          }
          error += LopsidedProduct(lost, lost);
          size += LopsidedProduct(key, key);
          product += LopsidedProduct(key, coded);
        }
      }
      return std::pair(error / size, product / size);
    };
    EXPECT_NEAR(measure(nullptr).first, expected.plain, 0.02 * expected.plain);
    const auto [error, slope] = measure(factors.data());
    EXPECT_NEAR(error, expected.rounded, 0.02 * expected.rounded) << expected.head_dim;
    EXPECT_NEAR(slope, 1.0, 0.0005);  // halves round it
  }
}

TEST(PageCodec, RotationMakesHeavyTailsHarmless) {
  const Distortion normal = Measure(Codec::kTurbo3, 128, false, false);
  const Distortion heavy = Measure(Codec::kTurbo3, 128, true, false);
  EXPECT_LT(heavy.error, 1.03 * normal.error);
}

TEST(PageCodec, EightBitsLoseAlmostNothingAndDemotionInStepsAddsNothing) {
  EXPECT_LT(Measure(Codec::kInt8, 64, false, false).error, 4e-5);
  const KvLayout layout{1, 1, 64, 64};
  const std::vector<float> x = RotatedVectors(64, 64, false);
  std::vector<std::byte> warm(BlockLayoutOf(Codec::kInt8, layout).bytes);
  std::vector<std::byte> cold(BlockLayoutOf(Codec::kTurbo3, layout).bytes);
  std::vector<float> k(x.size());
  std::vector<float> v(x.size());
  const auto error_of_cold = [&](const std::vector<float>& source) {
    EXPECT_TRUE(EncodeBlock(Codec::kTurbo3, layout, ReferenceQuantizer(), source.data(),
                            source.data(), cold.data())
                    .ok());
    std::vector<float> y(x.size());
    DecodeBlock(Codec::kTurbo3, layout, cold.data(), y.data(), v.data());
    double error = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += (y[i] - x[i]) * (y[i] - x[i]);
    }
    return error;
  };
  const double direct = error_of_cold(x);
  EXPECT_TRUE(
      EncodeBlock(Codec::kInt8, layout, ReferenceQuantizer(), x.data(), x.data(), warm.data())
          .ok());
  DecodeBlock(Codec::kInt8, layout, warm.data(), k.data(), v.data());
  EXPECT_NEAR(error_of_cold(k), direct, 0.01 * direct);
}

TEST(PageCodec, BlocksHaveTheirDocumentedSize) {
  const KvLayout small{30, 3, 64, 64};
  const KvLayout large{32, 8, 128, 64};
  const auto bytes_per_token = [](Codec codec, const KvLayout& layout) {
    return static_cast<int>(BlockLayoutOf(codec, layout).bytes) / layout.page_tokens;
  };
  EXPECT_EQ(bytes_per_token(Codec::kNative, small), 256);
  EXPECT_EQ(bytes_per_token(Codec::kInt8, small), 132);
  EXPECT_EQ(bytes_per_token(Codec::kTurbo3, small), 52);
  EXPECT_EQ(bytes_per_token(Codec::kTurboK4V3, small), 60);
  EXPECT_EQ(bytes_per_token(Codec::kNative, large), 512);
  EXPECT_EQ(bytes_per_token(Codec::kInt8, large), 260);
  EXPECT_EQ(bytes_per_token(Codec::kTurbo3, large), 100);
  EXPECT_EQ(bytes_per_token(Codec::kTurboK4V3, large), 116);
}

TEST(PageCodec, HeadSizesThatFillNoPanelKeepEveryValue) {
  for (const int dim : {8, 24, 80, 96}) {
    const KvLayout layout{1, 1, dim, 64};
    const std::vector<float> x = RotatedVectors(64, dim, false);
    std::vector<std::byte> block(BlockLayoutOf(Codec::kInt8, layout).bytes);
    std::vector<float> k(x.size());
    std::vector<float> v(x.size());
    ASSERT_TRUE(
        EncodeBlock(Codec::kInt8, layout, ReferenceQuantizer(), x.data(), x.data(), block.data())
            .ok());
    DecodeBlock(Codec::kInt8, layout, block.data(), k.data(), v.data());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(k[i], x[i], 0.03F) << dim;
      ASSERT_EQ(v[i], k[i]) << dim;
    }
  }
}

TEST(PageCodec, ZeroVectorsDecodeToZeroAndNonFiniteOnesAreRefused) {
  const KvLayout layout{1, 1, 64, 64};
  std::vector<float> k(64 * 64, 1.0F);
  const std::vector<float> v(k.size(), 0.0F);
  std::vector<float> k_out(k.size());
  std::vector<float> v_out(k.size(), 1.0F);
  for (const Codec codec : {Codec::kInt8, Codec::kTurbo3, Codec::kTurboK4V3}) {
    std::vector<std::byte> block(BlockLayoutOf(codec, layout).bytes);
    const std::vector<float> factors = LopsidedFactors(64);
    const float* query_factors = nullptr;
    const auto encode = [&] {
      return EncodeBlock(codec, layout, ReferenceQuantizer(), k.data(), v.data(), block.data(),
                         query_factors);
    };
    ASSERT_TRUE(encode().ok());
    DecodeBlock(codec, layout, block.data(), k_out.data(), v_out.data());
    EXPECT_EQ(v_out, v);
    query_factors = factors.data();
    std::fill(k.begin(), k.begin() + 64, 0.0F);
    ASSERT_TRUE(encode().ok());
    DecodeBlock(codec, layout, block.data(), k_out.data(), v_out.data());
    EXPECT_TRUE(std::all_of(k_out.begin(), k_out.begin() + 64, [](float x) { return x == 0; }));
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      k[77] = bad;
      EXPECT_EQ(encode().code(), StatusCode::kDataLoss);
      query_factors = nullptr;
      EXPECT_EQ(encode().code(), StatusCode::kDataLoss);
      k[77] = 1.0F;
    }
  }
}

// Halves reach 65504 and, with ten bits, 6e-5: inside that the error is that of the codes.
TEST(PageCodec, NormsFromTinyToHugeStayInProportion) {
  const KvLayout layout{1, 1, 64, 64};
  const std::vector<float> unit = RotatedVectors(64, 64, false);
  for (const Codec codec : {Codec::kInt8, Codec::kTurbo3, Codec::kTurboK4V3}) {
    std::vector<std::byte> block(BlockLayoutOf(codec, layout).bytes);
    for (const float factor : {1e-6F, 1e-3F, 1.0F, 1e3F, 1e4F, 1e6F}) {
      std::vector<float> x = unit;
      for (float& value : x) {
        value *= factor;
      }
      std::vector<float> k(x.size());
      std::vector<float> v(x.size());
      ASSERT_TRUE(
          EncodeBlock(codec, layout, ReferenceQuantizer(), x.data(), x.data(), block.data()).ok());
      DecodeBlock(codec, layout, block.data(), k.data(), v.data());
      double error = 0;
      double norm = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_TRUE(std::isfinite(k[i]));
        error += std::pow(k[i] - x[i], 2);
        norm += std::pow(x[i], 2);
      }
      const bool in_range = factor >= 1e-3F && factor <= 1e4F;
      EXPECT_LT(error, (in_range ? 0.04 : 1.0) * norm) << factor;
    }
  }
}

TEST(PageCodec, ATieGoesToTheLowerCode) {
  Codebook book = CodebookFor(64, 3);
  std::vector<float> x(64, 0.0F);
  x[0] = 1.0F;  // u = 8 in one coordinate and exactly the middle threshold in all others
  std::vector<uint8_t> codes(64);
  QuantizeTurbo(x.data(), 64, book, codes.data());
  EXPECT_EQ(codes[0], 7);
  EXPECT_EQ(codes[1], 3);
}

TEST(PageCodec, EveryInstructionSetGivesTheSameBits) {
  for (const auto& [level, table] : IsaTablesHere()) {
    const VectorQuantizer quantizer{
        .turbo = table->quantize_turbo, .int8 = table->quantize_int8, .keys = table->quantize_keys};
    for (const int dim : {8, 24, 64, 80, 96, 128, 256}) {
      const KvLayout layout{1, 1, dim, 64};
      const std::vector<float> factors = LopsidedFactors(dim);
      for (const Codec codec : {Codec::kInt8, Codec::kTurbo3, Codec::kTurboK4V3}) {
        std::vector<float> x = RotatedVectors(20 * 64, dim, true);
        const auto page_size = static_cast<size_t>(64 * dim);
        std::fill(x.begin(), x.begin() + dim, 0.0F);
        for (size_t i = 0; i < page_size; ++i) {
          x[page_size + i] *= 1e-6F;
          x[2 * page_size + i] *= 1e6F;
        }
        std::vector<std::byte> want(BlockLayoutOf(codec, layout).bytes);
        std::vector<std::byte> got = want;
        for (size_t page = 0; page < 20; ++page) {
          const float* in = x.data() + page * page_size;
          ASSERT_TRUE(EncodeBlock(codec, layout, ReferenceQuantizer(), in, in, want.data()).ok());
          ASSERT_TRUE(EncodeBlock(codec, layout, quantizer, in, in, got.data()).ok());
          ASSERT_EQ(got, want) << IsaName(level) << " head_dim " << dim << " page " << page;
          if (page >= 4) {
            continue;  // the reference takes its time
          }
          ASSERT_TRUE(
              EncodeBlock(codec, layout, ReferenceQuantizer(), in, in, want.data(), factors.data())
                  .ok());
          ASSERT_TRUE(
              EncodeBlock(codec, layout, quantizer, in, in, got.data(), factors.data()).ok());
          ASSERT_EQ(got, want) << IsaName(level) << " for queries, head_dim " << dim;
        }
      }
    }
    for (const int dim : {8, 24, 80, 128}) {
      std::vector<uint8_t> codes(static_cast<size_t>(dim));
      std::vector<float> want(codes.size());
      std::vector<float> got(codes.size());
      for (const int bits : {2, 3, 4, 8}) {
        for (size_t i = 0; i < codes.size(); ++i) {
          codes[i] = static_cast<uint8_t>(37 * i & ((1U << bits) - 1));
        }
        const Codebook& book = CodebookFor(dim, bits);
        if (bits == 8) {
          DequantizeInt8(codes.data(), dim, 0.37F, want.data());
          table->dequantize_int8(codes.data(), dim, 0.37F, got.data());
        } else {
          DequantizeTurbo(codes.data(), dim, book, 0.37F, want.data());
          table->dequantize_turbo(codes.data(), dim, book, 0.37F, got.data());
        }
        ASSERT_EQ(got, want) << IsaName(level) << " head_dim " << dim << " bits " << bits;
      }
    }
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      std::vector<float> x(64, 1.0F);
      x[40] = bad;
      std::vector<uint8_t> codes(64);
      EXPECT_TRUE(
          std::isnan(table->quantize_turbo(x.data(), 64, CodebookFor(64, 3), codes.data())));
      EXPECT_TRUE(std::isnan(table->quantize_int8(x.data(), 64, codes.data())));
    }
  }
}

TEST(Rotation, IsOrthonormalItsOwnWayBackAndTheSameEverywhere) {
  for (const int dim : {8, 24, 64, 80, 96, 128, 256}) {
    const std::vector<float> signs = RotationSigns(dim, kSeed);
    EXPECT_EQ(signs, RotationSigns(dim, kSeed));
    const auto size = static_cast<size_t>(dim);
    std::vector<std::vector<float>> rows;
    for (size_t i = 0; i < size; ++i) {
      std::vector<float> row(size, 0.0F);
      row[i] = 1.0F;
      RotateForward(row.data(), signs.data(), dim);
      rows.push_back(row);
    }
    for (size_t i = 0; i < size; ++i) {
      for (size_t j = 0; j < size; ++j) {
        double dot = 0;
        for (size_t d = 0; d < size; ++d) {
          dot += double{rows[i][d]} * rows[j][d];
        }
        ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-6);
      }
    }
    for (size_t i = 0; i < size; ++i) {
      RotateBack(rows[i].data(), signs.data(), dim);
      for (size_t d = 0; d < size; ++d) {
        ASSERT_NEAR(rows[i][d], d == i ? 1.0F : 0.0F, 1e-6F);
      }
    }
  }
  // The first 16 signs of this seed: a page file from another machine depends on them.
  std::string pattern;
  for (const float sign : RotationSigns(16, kSeed)) {
    pattern += sign > 0 ? '+' : '-';
  }
  EXPECT_EQ(pattern, "-+---+-++-+++---");
}

TEST(Codebook, WordsAreTheLevelsInWholeSteps) {
  for (const int dim : {16, 64, 96, 128, 256}) {
    for (const int bits : {2, 3, 4}) {
      const Codebook& book = CodebookFor(dim, bits);
      EXPECT_EQ(book.words[book.num_levels - 1], kMaxWord);
      for (int i = 0; i < 16; ++i) {
        EXPECT_NEAR(static_cast<float>(book.words[i]) * book.word_step,
                    book.levels[i % book.num_levels], 0.51F * book.word_step);
      }
    }
  }
}

}  // namespace
}  // namespace thermocline
