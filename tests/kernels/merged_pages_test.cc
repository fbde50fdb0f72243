#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "kernels/core/half.h"
#include "kernels/core/quantize.h"
#include "kernels/cpu/isa/isa_level.h"
#include "kernels/cpu/isa/isa_table.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/query_factors.h"
#include "kernels/quant/token_clusters.h"
#include "tests/testing/isa_tables.h"

namespace thermocline {
namespace {

constexpr Codec kMergedCodecs[] = {Codec::kMerged2, Codec::kMergedK3V2};
constexpr KvLayout kLayout{.num_layers = 1, .num_kv_heads = 1, .head_dim = 64, .page_tokens = 64};

std::vector<float> Normal(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  return x;
}

// Of queries with different moments in all directions, some of them shared.
std::vector<float> Factors(int dim) {
  std::vector<float> moments(static_cast<size_t>(dim * dim), 0.01F);
  for (int i = 0; i < dim; ++i) {
    moments[static_cast<size_t>(i * dim + i)] = 0.02F + 0.1F * static_cast<float>(i % 5);
  }
  return FactorQueryMoments(moments, dim);
}

std::vector<float> DistancesOf(std::span<const float> x, int dim, const float* factors) {
  std::vector<float> scratch(static_cast<size_t>(kClusteredTokens * dim));
  std::vector<float> distances(size_t{kClusteredTokens} * kClusteredTokens);
  MeasureKeyDistances({.x = x.data(),
                       .factors = factors,
                       .num_tokens = kClusteredTokens,
                       .dim = dim,
                       .scratch = scratch.data(),
                       .distances = distances.data()});
  return distances;
}

struct Rows {
  std::vector<float> k, v, log_weights;
};

Rows Decoded(Codec codec, std::span<const std::byte> block) {
  const auto num_rows = static_cast<size_t>(BlockRows(codec, kLayout));
  Rows rows{std::vector<float>(num_rows * 64), std::vector<float>(num_rows * 64),
            std::vector<float>(num_rows)};
  DecodeBlock(codec, kLayout, block.data(), rows.k.data(), rows.v.data());
  DecodeLogWeights(codec, kLayout, block.data(), rows.log_weights.data());
  return rows;
}

Rows Merged(Codec codec, const std::vector<float>& k, const std::vector<float>& v,
            const float* factors) {
  std::vector<std::byte> block(BlockLayoutOf(codec, kLayout).bytes);
  EXPECT_TRUE(
      EncodeBlock(codec, kLayout, ReferenceQuantizer(), k.data(), v.data(), block.data(), factors)
          .ok());
  return Decoded(codec, block);
}

TEST(KeyDistances, AreThoseThatQueriesSee) {
  constexpr int kDim = 24;
  std::vector<float> moments(size_t{kDim} * kDim);
  const std::vector<float> queries = Normal(size_t{50} * kDim, 1);
  for (size_t i = 0; i < moments.size(); ++i) {
    for (size_t q = 0; q < 50; ++q) {
      moments[i] += queries[q * kDim + i / kDim] * queries[q * kDim + i % kDim] / 50;
    }
  }
  const std::vector<float> factors = FactorQueryMoments(moments, kDim);
  const std::vector<float> x = Normal(size_t{kClusteredTokens} * kDim, 2);
  const std::vector<float> got = DistancesOf(x, kDim, factors.data());
  for (size_t s = 0; s < kClusteredTokens; s += 7) {
    for (size_t t = 0; t < kClusteredTokens; ++t) {
      double want = 0;  // the mean square of the difference of scores
      for (size_t q = 0; q < 50; ++q) {
        double difference = 0;
        for (size_t i = 0; i < kDim; ++i) {
          difference += double{queries[q * kDim + i]} * (x[s * kDim + i] - x[t * kDim + i]);
        }
        want += difference * difference / 50;
      }
      ASSERT_NEAR(got[s * kClusteredTokens + t], want, 1e-4 * want + 1e-6);
    }
  }
}

TEST(KeyDistances, AreTheSameBitsInEveryInstructionSet) {
  for (const auto& [level, table] : IsaTablesHere()) {
    for (const int dim : {8, 24, 64, 80, 128}) {
      const std::vector<float> factors = Factors(dim);
      const std::vector<float> x = Normal(static_cast<size_t>(64 * dim), 14);
      for (const float* query_factors : {static_cast<const float*>(nullptr), factors.data()}) {
        std::vector<float> scratch(x.size());
        std::vector<float> got(size_t{kClusteredTokens} * kClusteredTokens);
        table->measure_keys({.x = x.data(),
                             .factors = query_factors,
                             .num_tokens = kClusteredTokens,
                             .dim = dim,
                             .scratch = scratch.data(),
                             .distances = got.data()});
        ASSERT_EQ(got, DistancesOf(x, dim, query_factors)) << IsaName(level) << " dim " << dim;
      }
    }
  }
}

// The sum of squared distances to the means, from the vectors.
double SumOfSquares(std::span<const float> x, int dim, const std::vector<size_t>& tokens) {
  double sum = 0;
  for (size_t i = 0; i < static_cast<size_t>(dim); ++i) {
    double mean = 0;
    for (const size_t t : tokens) {
      mean += x[t * static_cast<size_t>(dim) + i] / static_cast<double>(tokens.size());
    }
    for (const size_t t : tokens) {
      sum += std::pow(x[t * static_cast<size_t>(dim) + i] - mean, 2);
    }
  }
  return sum;
}

// Ward's method as it is defined: of all pairs, the one whose union adds least to the sum.
std::vector<std::vector<size_t>> SlowClusters(std::span<const float> x, int dim) {
  std::vector<std::vector<size_t>> clusters;
  for (size_t t = 0; t < kClusteredTokens; ++t) {
    clusters.push_back({t});
  }
  while (clusters.size() > kNumClusters) {
    double least = std::numeric_limits<double>::infinity();
    std::pair<size_t, size_t> best;
    for (size_t a = 0; a < clusters.size(); ++a) {
      for (size_t b = a + 1; b < clusters.size(); ++b) {
        std::vector<size_t> both = clusters[a];
        both.insert(both.end(), clusters[b].begin(), clusters[b].end());
        const double added = SumOfSquares(x, dim, both) - SumOfSquares(x, dim, clusters[a]) -
                             SumOfSquares(x, dim, clusters[b]);
        if (added < least) {
          least = added;
          best = {a, b};
        }
      }
    }
    auto& into = clusters[best.first];
    const auto& gone = clusters[best.second];
    into.insert(into.end(), gone.begin(), gone.end());
    clusters.erase(clusters.begin() + static_cast<int64_t>(best.second));
  }
  return clusters;
}

TEST(TokenClusters, AreThoseOfWardsMethod) {
  constexpr int kDim = 8;
  for (const uint64_t seed : {3, 4, 5}) {
    const std::vector<float> x = Normal(size_t{kClusteredTokens} * kDim, seed);
    std::vector<float> distances = DistancesOf(x, kDim, nullptr);
    const TokenClusters got = ClusterTokens(distances);
    const auto want = SlowClusters(x, kDim);
    for (size_t row = 0; row < want.size(); ++row) {
      ASSERT_EQ(got.sizes[row], want[row].size());
      const double spread = SumOfSquares(x, kDim, want[row]) / static_cast<double>(got.sizes[row]);
      ASSERT_NEAR(got.spreads[row], spread, 1e-4);
      for (const size_t token : want[row]) {
        ASSERT_EQ(got.row_of[token], row) << "token " << token;
      }
    }
  }
}

TEST(TokenClusters, OfEqualOrUndefinedDistancesAreComplete) {
  for (const float distance : {0.0F, 1.0F, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> distances(size_t{kClusteredTokens} * kClusteredTokens, distance);
    const TokenClusters clusters = ClusterTokens(distances);
    std::array<int, kNumClusters> counts{};
    for (const uint8_t row : clusters.row_of) {
      ASSERT_LT(row, kNumClusters);
      ++counts[row];
    }
    for (size_t row = 0; row < kNumClusters; ++row) {
      EXPECT_GT(counts[row], 0);
      EXPECT_EQ(counts[row], clusters.sizes[row]);
    }
  }
}

// Pairs of equal keys lose their values' difference, which no query can see, and nothing else.
TEST(MergedBlock, EqualKeysShareARowAndCountTwice) {
  constexpr size_t kPairs = kClusteredTokens - kNumClusters;
  std::vector<float> k = Normal(size_t{64} * 64, 6);
  const std::vector<float> v = Normal(size_t{64} * 64, 7);
  std::copy(k.begin(), k.begin() + kPairs * 64, k.begin() + kNumClusters * 64);
  std::vector<float> v_means(v.begin(), v.begin() + kNumClusters * 64);
  for (size_t i = 0; i < kPairs * 64; ++i) {
    v_means[i] = (v[i] + v[i + v_means.size()]) * 0.5F;
  }
  const std::vector<float> factors = Factors(64);
  for (const Codec codec : kMergedCodecs) {
    const Rows rows = Merged(codec, k, v, factors.data());
    double k_error = 0;
    double v_error = 0;
    double k_norm = 0;
    double v_norm = 0;
    for (size_t i = 0; i < v_means.size(); ++i) {
      k_error += std::pow(rows.k[i] - k[i], 2);
      v_error += std::pow(rows.v[i] - v_means[i], 2);
      k_norm += std::pow(k[i], 2);
      v_norm += std::pow(v_means[i], 2);
    }
    EXPECT_LT(k_error, 0.16 * k_norm);  // of the codes alone, rounded for queries
    EXPECT_LT(v_error, 0.13 * v_norm);
    for (size_t row = 0; row < kNumClusters; ++row) {
      EXPECT_NEAR(rows.log_weights[row], row < kPairs ? std::log(2.0F) : 0.0F, 1e-3F) << row;
    }
  }
}

TEST(MergedBlock, AKeyLikeNoOtherKeepsARowOfItsOwn) {
  std::vector<float> k = Normal(size_t{64} * 64, 8);
  const std::vector<float> v = Normal(size_t{64} * 64, 9);
  constexpr size_t kNeedle = 37;
  for (size_t i = 0; i < 64; ++i) {
    k[kNeedle * 64 + i] *= 3;
  }
  const Rows rows = Merged(Codec::kMerged2, k, v, Factors(64).data());
  bool found = false;
  for (size_t row = 0; row < kNumClusters; ++row) {
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < 64; ++i) {
      error += std::pow(rows.v[row * 64 + i] - v[kNeedle * 64 + i], 2);
      norm += std::pow(v[kNeedle * 64 + i], 2);
    }
    if (error < 0.2 * norm) {
      found = true;
      EXPECT_EQ(rows.log_weights[row], 0);
    }
  }
  EXPECT_TRUE(found);
}

// Queries that see keys apart give a row of such keys more than their number: normal queries' mean
// of exp(score) over the tokens is what the row stands for.
TEST(MergedBlock, WeighsRowsAsNormalQueriesWould) {
  constexpr size_t kPairs = kClusteredTokens - kNumClusters;
  std::vector<float> k(size_t{64} * 64, 0.0F);
  const std::vector<float> v(k.size(), 1.0F);
  for (size_t t = 0; t < 64; ++t) {
    k[t * 64] = 10.0F * static_cast<float>(t % kNumClusters);
    k[t * 64 + 1] = t < kNumClusters ? 0.25F : -0.25F;  // pairs are half apart
  }
  std::vector<float> moments(size_t{64} * 64, 0.0F);
  for (size_t i = 0; i < 64; ++i) {
    moments[i * 64 + i] = 0.6F;
  }
  const std::vector<float> factors = FactorQueryMoments(moments, 64);
  const Rows known = Merged(Codec::kMerged2, k, v, factors.data());
  const Rows unknown = Merged(Codec::kMerged2, k, v, nullptr);  // the number alone
  for (size_t row = 0; row < kNumClusters; ++row) {
    const float log_count = row < kPairs ? std::log(2.0F) : 0.0F;
    const float spread = row < kPairs ? 0.6F * 0.25F * 0.25F : 0.0F;
    EXPECT_NEAR(known.log_weights[row], log_count + 0.5F * spread, 1e-3F) << row;
    EXPECT_NEAR(unknown.log_weights[row], log_count, 1e-3F) << row;
  }
}

TEST(MergedBlock, HasItsDocumentedSizeAndAlignment) {
  const auto bytes = [](Codec codec, int head_dim) {
    return BlockLayoutOf(codec, {1, 1, head_dim, 64}).bytes;
  };
  EXPECT_EQ(bytes(Codec::kMerged2, 64), 29U * 64);
  EXPECT_EQ(bytes(Codec::kMergedK3V2, 64), 35U * 64);
  EXPECT_EQ(bytes(Codec::kMerged2, 128), 53U * 64);
  EXPECT_EQ(bytes(Codec::kMergedK3V2, 128), 65U * 64);
  for (const Codec codec : kMergedCodecs) {
    for (const int dim : {8, 24, 64, 80, 96, 128, 256}) {
      const BlockLayout at = BlockLayoutOf(codec, {1, 1, dim, 64});
      EXPECT_EQ(at.v_codes % 64, 0U) << dim;
      EXPECT_EQ(at.bytes % 64, 0U) << dim;
      EXPECT_GE(at.bytes, at.log_weights + 2 * kNumClusters) << dim;
    }
  }
  EXPECT_FALSE(CanMerge({1, 1, 64, 32}));
}

TEST(MergedBlock, NonFiniteValuesAreRefused) {
  const std::vector<float> good = Normal(size_t{64} * 64, 10);
  const std::vector<float> factors = Factors(64);
  for (const Codec codec : kMergedCodecs) {
    std::vector<std::byte> block(BlockLayoutOf(codec, kLayout).bytes);
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      for (const bool in_keys : {false, true}) {
        for (const float* query_factors : {static_cast<const float*>(nullptr), factors.data()}) {
          std::vector<float> x = good;
          x[1000] = bad;
          EXPECT_EQ(
              EncodeBlock(codec, kLayout, ReferenceQuantizer(), in_keys ? x.data() : good.data(),
                          in_keys ? good.data() : x.data(), block.data(), query_factors)
                  .code(),
              StatusCode::kDataLoss);
        }
      }
    }
  }
}

TEST(MergedBlock, EveryInstructionSetGivesTheSameBits) {
  for (const auto& [level, table] : IsaTablesHere()) {
    const VectorQuantizer quantizer{.turbo = table->quantize_turbo,
                                    .int8 = table->quantize_int8,
                                    .keys = table->quantize_keys,
                                    .distances = table->measure_keys};
    for (const int dim : {8, 24, 64, 80, 128}) {
      const KvLayout layout{1, 1, dim, 64};
      const std::vector<float> factors = Factors(dim);
      std::vector<float> x = Normal(static_cast<size_t>(64 * dim), 11);
      for (const float factor : {1.0F, 1e-6F, 1e6F}) {
        for (float& value : x) {
          value *= factor;
        }
        for (const Codec codec : kMergedCodecs) {
          std::vector<std::byte> want(BlockLayoutOf(codec, layout).bytes);
          std::vector<std::byte> got(want.size(), std::byte{0xab});  // padding is written too
          for (const float* query_factors : {static_cast<const float*>(nullptr), factors.data()}) {
            const auto encode = [&](const VectorQuantizer& with, std::vector<std::byte>& block) {
              return EncodeBlock(codec, layout, with, x.data(), x.data(), block.data(),
                                 query_factors)
                  .ok();
            };
            ASSERT_TRUE(encode(ReferenceQuantizer(), want));
            ASSERT_TRUE(encode(quantizer, got));
            ASSERT_EQ(got, want) << IsaName(level) << " head_dim " << dim;
          }
        }
      }
    }
  }
}

// Warm -> archive -> archive elsewhere: merged bytes are copied, and damage is seen.
TEST(MergedPage, MovesAsItIsAndADamagedOneIsCorrupt) {
  constexpr KvLayout kTwoHeads{
      .num_layers = 1, .num_kv_heads = 2, .head_dim = 64, .page_tokens = 64};
  std::vector<LayerFormat> formats(kNumTiers);
  const auto set = [&](Tier tier, Codec codec) {
    formats[static_cast<size_t>(tier)] = {.codec = codec,
                                          .head_stride = BlockLayoutOf(codec, kTwoHeads).bytes};
  };
  set(Tier::kHot, Codec::kNative);
  set(Tier::kArchive, Codec::kMerged2);
  std::vector<std::byte> arena(size_t{3} * 2 * NativeHeadBytes(kTwoHeads));
  const std::vector<float> values = Normal(size_t{2} * 2 * 64 * 64, 12);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = FloatToHalf(values[i]);
    std::memcpy(arena.data() + 2 * i, &half, 2);
  }
  const std::vector<float> means = Normal(size_t{2} * 64, 13);
  const KvCacheView kv{.arena = arena.data(),
                       .formats = formats.data(),
                       .layout = kTwoHeads,
                       .mean_keys = means.data()};
  const uint32_t units = 2 * NativeHeadBytes(kTwoHeads) / kArenaUnitBytes;
  const PageEntry hot(Tier::kHot, 0);
  const PageEntry first(Tier::kArchive, units);
  const PageEntry second(Tier::kArchive, 2 * units);
  const MoveResult down = TranscodePage({.from = hot, .to = first}, kv, ReferenceQuantizer());
  ASSERT_EQ(down.outcome, MoveResult::Outcome::kOk);

  const MoveResult moved = TranscodePage({.from = first, .to = second, .checksum = down.checksum},
                                         kv, ReferenceQuantizer());

  EXPECT_EQ(moved.outcome, MoveResult::Outcome::kOk);
  EXPECT_EQ(moved.checksum, down.checksum);
  const size_t bytes = size_t{2} * BlockLayoutOf(Codec::kMerged2, kTwoHeads).bytes;
  EXPECT_EQ(0, std::memcmp(arena.data() + second.offset(), arena.data() + first.offset(), bytes));
  arena[second.offset() + 500] ^= std::byte{1};
  EXPECT_EQ(TranscodePage({.from = second, .to = first, .checksum = moved.checksum}, kv,
                          ReferenceQuantizer())
                .outcome,
            MoveResult::Outcome::kCorrupt);
}

}  // namespace
}  // namespace thermocline
