#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/core/half.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/rotation.h"
#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;

// x as a quantised MatMul sees it: blocks of 32, scale largest / (127 * 128).
constexpr float kLargestCode = 127 * 128;
std::vector<double> QuantizeActivations(const std::vector<float>& x) {
  std::vector<double> out(x.size());
  for (size_t b = 0; b < x.size(); b += 32) {
    float largest = 0;
    for (size_t i = b; i < b + 32; ++i) {
      largest = std::max(largest, std::abs(x[i]));
    }
    for (size_t i = b; i < b + 32 && largest > 0; ++i) {
      out[i] = std::nearbyint(x[i] * (kLargestCode / largest)) *
               static_cast<double>(largest / kLargestCode);
    }
  }
  return out;
}

class CpuOpsTest : public testing::TestWithParam<IsaLevel> {
 protected:
  void SetUp() override {
    if (!CpuHas(GetParam())) {
      GTEST_SKIP() << "THIS CPU CANNOT RUN " << IsaName(GetParam());
    }
    device_ = Make(2);
    stream_ = device_->NewStream();
  }

  static std::unique_ptr<CpuDevice> Make(int num_threads) {
    return CpuDevice::Create({.num_threads = num_threads, .isa = GetParam()}).value();
  }

  std::vector<float> MatMul(const Ops& ops, const Weight& weight, std::vector<float> x,
                            int64_t num_tokens, MatMulMode mode = MatMulMode::kStore) {
    std::vector<float> y(static_cast<size_t>(num_tokens * weight.rows()), 1.0F);
    ops.MatMul(Tensor(x.data(), {num_tokens, weight.cols()}), weight,
               Tensor(y.data(), {num_tokens, weight.rows()}), mode, *stream_);
    return y;
  }

  static bool HasWords() { return GetParam() >= IsaLevel::kAvx512; }
  // Of attention over values of about 1. Words round the largest of queries, keys, weights and
  // values to 13 bits or more, so that scores of about 1 are off by 1e-4 to 2e-4.
  static float Tolerance(float of_floats) { return HasWords() ? 0x1p-10F : of_floats; }

  // A score is in the energy twice.
  static void ExpectNearEnergies(const std::vector<float>& got, const std::vector<float>& want) {
    ASSERT_EQ(got.size(), want.size());
    const float tolerance = Tolerance(2e-4F);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], tolerance * want[i] + 1e-9F) << "page x head " << i;
    }
  }

  std::unique_ptr<CpuDevice> device_;
  std::unique_ptr<Stream> stream_;
};

TEST_P(CpuOpsTest, MatMulOfEveryTypeEqualsDoubleArithmetic) {
  constexpr int64_t kRows = 53;  // not whole panels
  constexpr int64_t kCols = 512;
  for (const WeightType type : kAllWeightTypes) {
    const RandomWeight random = MakeRandomWeight(type, kRows, kCols, 7);
    std::vector<float> decoded(kRows * kCols);
    Dequantize(type, random.source.data, kRows * kCols, decoded.data());
    const std::unique_ptr<Weight> weight =
        device_->ops().PrepareWeight(std::span(&random.source, 1)).value();
    const bool quantized = GetWeightTypeInfo(type)->block_elements > 1;
    for (const int64_t num_tokens : {1, 2, 3, 5, 8, 12, 13, 31}) {
      const std::vector<float> x = RandomFloats(static_cast<size_t>(num_tokens * kCols), 3);
      const std::vector<double> exact_x =
          quantized ? QuantizeActivations(x) : std::vector<double>(x.begin(), x.end());
      const std::vector<float> y = MatMul(device_->ops(), *weight, x, num_tokens);
      const std::vector<float> added =
          MatMul(device_->ops(), *weight, x, num_tokens, MatMulMode::kAdd);
      for (int64_t t = 0; t < num_tokens; ++t) {
        for (int64_t r = 0; r < kRows; ++r) {
          double sum = 0;
          double magnitude = 0;
          for (int64_t c = 0; c < kCols; ++c) {
            const double product = exact_x[static_cast<size_t>(t * kCols + c)] *
                                   static_cast<double>(decoded[static_cast<size_t>(r * kCols + c)]);
            sum += product;
            magnitude += std::abs(product);
          }
          const auto i = static_cast<size_t>(t * kRows + r);
          // Float sums of 512 products: a few units in the last place of the largest partial sum.
          ASSERT_NEAR(y[i], sum, 4e-6 * magnitude)
              << GetWeightTypeInfo(type)->name << " token " << t << " row " << r;
          ASSERT_NEAR(added[i], 1 + y[i], 1e-6 * (1 + std::abs(y[i])));
        }
      }
    }
  }
}

TEST_P(CpuOpsTest, MatMulOfARowIsTheSameInAnyBatchAndWithAnyThreads) {
  constexpr int64_t kRows = 80;
  constexpr int64_t kCols = 256;
  constexpr int64_t kTokens = 40;
  for (const WeightType type : kAllWeightTypes) {
    const RandomWeight random = MakeRandomWeight(type, kRows, kCols, 11);
    const std::vector<float> x = RandomFloats(kTokens * kCols, 5);
    std::vector<float> alone;
    for (const int num_threads : {1, 2, 3}) {
      const std::unique_ptr<CpuDevice> device = Make(num_threads);
      const std::unique_ptr<Weight> weight =
          device->ops().PrepareWeight(std::span(&random.source, 1)).value();
      if (alone.empty()) {
        for (int64_t t = 0; t < kTokens; ++t) {
          const std::vector<float> row(x.begin() + t * kCols, x.begin() + (t + 1) * kCols);
          const std::vector<float> y = MatMul(device->ops(), *weight, row, 1);
          alone.insert(alone.end(), y.begin(), y.end());
        }
      }
      for (int64_t num_tokens = 2; num_tokens <= kTokens; ++num_tokens) {
        const std::vector<float> part(x.begin(), x.begin() + num_tokens * kCols);
        const std::vector<float> y = MatMul(device->ops(), *weight, part, num_tokens);
        ASSERT_EQ(0, std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)))
            << GetWeightTypeInfo(type)->name << ", " << num_tokens << " tokens";
      }
    }
  }
}

TEST_P(CpuOpsTest, StackedPartsOfDifferentTypesKeepTheirRows) {
  const RandomWeight a = MakeRandomWeight(WeightType::kQ4_K, 20, 256, 1);
  const RandomWeight b = MakeRandomWeight(WeightType::kQ6_K, 7, 256, 2);
  const std::vector<WeightSource> parts = {a.source, b.source};
  const std::vector<float> x = RandomFloats(3 * 256, 3);
  const auto both = MatMul(device_->ops(), *device_->ops().PrepareWeight(parts).value(), x, 3);
  const auto only_a =
      MatMul(device_->ops(), *device_->ops().PrepareWeight(std::span(&a.source, 1)).value(), x, 3);
  const auto only_b =
      MatMul(device_->ops(), *device_->ops().PrepareWeight(std::span(&b.source, 1)).value(), x, 3);
  for (size_t t = 0; t < 3; ++t) {
    for (size_t r = 0; r < 27; ++r) {
      EXPECT_EQ(both[t * 27 + r], r < 20 ? only_a[t * 20 + r] : only_b[t * 7 + r - 20]);
    }
  }
}

TEST_P(CpuOpsTest, EmbeddedRowsAreTheSourcesToTheLastBit) {
  constexpr int64_t kRows = 37;  // not whole panels
  constexpr int64_t kCols = 512;
  for (const WeightType type : kAllWeightTypes) {
    const RandomWeight parts[] = {MakeRandomWeight(WeightType::kQ8_0, 5, kCols, 3),
                                  MakeRandomWeight(type, kRows, kCols, 4)};
    const WeightSource sources[] = {parts[0].source, parts[1].source};
    const std::unique_ptr<Weight> table = device_->ops().PrepareWeight(sources).value();
    std::vector<float> want(static_cast<size_t>(table->rows() * kCols));
    Dequantize(WeightType::kQ8_0, sources[0].data, 5 * kCols, want.data());
    Dequantize(type, sources[1].data, kRows * kCols, want.data() + 5 * kCols);
    std::vector<TokenId> tokens;
    for (int64_t row = table->rows() - 1; row >= 0; --row) {
      tokens.push_back(static_cast<TokenId>(row));
    }
    std::vector<float> got(want.size());
    device_->ops().Embed(tokens, *table, Tensor(got.data(), {table->rows(), kCols}), *stream_);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const float* row = want.data() + tokens[i] * kCols;
      ASSERT_TRUE(std::equal(row, row + kCols, got.data() + i * kCols))
          << GetWeightTypeInfo(type)->name << " row " << tokens[i];
    }
  }
}

TEST_P(CpuOpsTest, NonFiniteActivationsDoNotLookSane) {
  const RandomWeight random = MakeRandomWeight(WeightType::kQ4_1, 16, 64, 1);
  const auto weight = device_->ops().PrepareWeight(std::span(&random.source, 1)).value();
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x = RandomFloats(64, 3);
    x[37] = bad;
    for (const float y : MatMul(device_->ops(), *weight, x, 1)) {
      EXPECT_FALSE(std::isfinite(y));
    }
  }
}

TEST_P(CpuOpsTest, RowwiseOperationsEqualTheReference) {
  const auto reference = CpuDevice::Create({.reference = true}).value();
  for (const int64_t dim : {2, 16, 30, 64, 576}) {
    constexpr int64_t kTokens = 5;
    const auto size = static_cast<size_t>(kTokens * dim);
    const std::vector<float> gain = RandomFloats(static_cast<size_t>(dim), 1);
    std::vector<float> x = RandomFloats(size, 2, 3.0F);
    std::vector<float> gate_up = RandomFloats(2 * size, 3, 6.0F);
    const std::vector<float> angles = RandomFloats(size, 4);
    const auto run = [&](const Ops& ops) {
      std::vector<std::vector<float>> results;
      std::vector<float> out(size);
      const Tensor y(out.data(), {kTokens, dim});
      ops.RmsNorm(Tensor(x.data(), {kTokens, dim}), gain, 1e-5F, y, *stream_);
      results.push_back(out);
      for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
        ops.GatedActivation(Tensor(gate_up.data(), {kTokens, 2 * dim}), activation, y, *stream_);
        results.push_back(out);
      }
      for (const RopeStyle style : {RopeStyle::kInterleaved, RopeStyle::kHalves}) {
        out = x;
        std::vector<float> cos_sin = angles;
        ops.Rope(y, 1, static_cast<int>(dim), Tensor(cos_sin.data(), {kTokens, dim / 2, 2}), style,
                 *stream_);
        results.push_back(out);
      }
      out = x;
      ops.AddBias(y, gain, *stream_);
      results.push_back(out);
      return results;
    };
    const auto expected = run(reference->ops());
    const auto actual = run(device_->ops());
    for (size_t k = 0; k < expected.size(); ++k) {
      for (size_t i = 0; i < size; ++i) {
        ASSERT_NEAR(actual[k][i], expected[k][i], 2e-6F * (1 + std::abs(expected[k][i])))
            << "operation " << k << " dim " << dim;
      }
    }
  }
}

// A cache of some pages in scattered places, and a batch over them.
struct PagedCase {
  int num_heads;
  KvLayout layout;
  std::vector<std::byte> arena;
  std::vector<PageEntry> page_map;
  std::vector<LayerFormat> formats;
  std::vector<int32_t> sequence_starts{0}, positions, page_starts{0};
  std::vector<PageId> page_ids;
  std::vector<float> qkv;        // [num_tokens, width]
  std::vector<float> mean_keys;  // [num_kv_heads, head_dim], or empty
  std::vector<uint64_t> masks;   // [pages, num_kv_heads], or empty: KvCacheView::keep_masks
  std::vector<float> energy;     // of the last Run: [page_starts.back(), num_kv_heads]

  PagedCase(int heads, int kv_heads, int head_dim, int num_pages)
      : num_heads(heads), layout{1, kv_heads, head_dim, kPageTokens} {
    const uint32_t head_bytes = NativeHeadBytes(layout);
    const auto page_units =
        static_cast<uint32_t>((head_bytes * static_cast<uint32_t>(kv_heads) + 4095) / 4096);
    arena.resize(static_cast<size_t>(num_pages) * page_units * kArenaUnitBytes);
    for (int i = 0; i < num_pages; ++i) {  // ids and places in opposite order
      page_map.emplace_back(Tier::kHot, static_cast<uint32_t>(num_pages - 1 - i) * page_units);
    }
    formats.resize(kNumTiers,
                   {.codec = Codec::kNative, .layer_offset = 0, .head_stride = head_bytes});
  }

  int width() const { return (num_heads + 2 * layout.num_kv_heads) * layout.head_dim; }

  // Tokens [first, first + count) of a sequence that owns the given pages.
  void Add(int first, int count, const std::vector<PageId>& pages, const std::vector<float>& rows) {
    for (int i = 0; i < count; ++i) {
      positions.push_back(first + i);
    }
    const auto begin = rows.begin() + int64_t{first} * width();
    qkv.insert(qkv.end(), begin, begin + int64_t{count} * width());
    sequence_starts.push_back(static_cast<int32_t>(positions.size()));
    page_ids.insert(page_ids.end(), pages.begin(), pages.end());
    page_starts.push_back(static_cast<int32_t>(page_ids.size()));
  }

  void ClearBatch() {
    sequence_starts = page_starts = {0};
    positions.clear();
    page_ids.clear();
    qkv.clear();
  }

  KvCacheView view() {
    return {.arena = arena.data(),
            .page_map = page_map.data(),
            .formats = formats.data(),
            .layout = layout,
            .mean_keys = mean_keys.empty() ? nullptr : mean_keys.data(),
            .keep_masks = masks.empty() ? nullptr : masks.data()};
  }

  // Codes a full hot page where it lies; `codec` becomes the one of `tier`.
  void Cool(PageId page, Tier tier, Codec codec) {
    const uint32_t bytes = BlockLayoutOf(codec, layout).bytes;
    const auto size = static_cast<size_t>(layout.page_tokens * layout.head_dim);
    std::vector<std::byte> blocks(size_t{bytes} * static_cast<size_t>(layout.num_kv_heads));
    ASSERT_LE(bytes, formats[0].head_stride);
    for (int h = 0; h < layout.num_kv_heads; ++h) {
      std::vector<float> k(size);
      std::vector<float> v(size);
      DecodeBlock(Codec::kNative, layout, view().block(page, 0, h), k.data(), v.data());
      for (size_t i = 0; i < size && !mean_keys.empty(); ++i) {
        k[i] -= view().mean_key(0, h)[i % static_cast<size_t>(layout.head_dim)];
      }
      ASSERT_TRUE(EncodeBlock(codec, layout, ReferenceQuantizer(), k.data(), v.data(),
                              blocks.data() + static_cast<size_t>(h) * bytes)
                      .ok());
    }
    formats[static_cast<size_t>(tier)] = {.codec = codec, .layer_offset = 0, .head_stride = bytes};
    page_map[page] = PageEntry(tier, page_map[page].unit());
    std::copy(blocks.begin(), blocks.end(), view().block(page, 0, 0));
  }

  std::vector<float> Run(const Ops& ops, Stream& stream) {
    const auto num_tokens = static_cast<int>(positions.size());
    const BatchView batch{.num_tokens = num_tokens,
                          .num_sequences = static_cast<int>(sequence_starts.size()) - 1,
                          .sequence_starts = sequence_starts.data(),
                          .positions = positions.data(),
                          .page_starts = page_starts.data(),
                          .page_ids = page_ids.data()};
    const KvCacheView kv = view();
    const Tensor rows(qkv.data(), {num_tokens, width()});
    const int k_column = num_heads * layout.head_dim;
    ops.AppendKv(rows, k_column, k_column + layout.num_kv_heads * layout.head_dim, batch, kv, 0,
                 stream);
    std::vector<float> out(static_cast<size_t>(num_tokens * num_heads * layout.head_dim));
    energy.assign(page_ids.size() * static_cast<size_t>(layout.num_kv_heads), -1.0F);
    ops.PagedAttention(rows, num_heads, batch, kv,
                       {.layer = 0,
                        .scale = 1 / std::sqrt(static_cast<float>(layout.head_dim)),
                        .page_energy = energy.data()},
                       Tensor(out.data(), {num_tokens, num_heads * layout.head_dim}), stream);
    return out;
  }
};

std::vector<PageId> Pages(int first, int count) {
  std::vector<PageId> pages;
  for (int i = 0; i < count; ++i) {
    pages.push_back(static_cast<PageId>(first + i));
  }
  return pages;
}

struct AttentionShape {
  int num_heads, num_kv_heads, head_dim;
};

constexpr AttentionShape kShapes[] = {{9, 3, 64}, {4, 4, 16}, {8, 1, 128}, {6, 2, 24}, {2, 1, 80}};

TEST_P(CpuOpsTest, AttentionEqualsTheReferenceAtPageEdges) {
  const auto reference = CpuDevice::Create({.reference = true}).value();
  for (const AttentionShape& shape : kShapes) {
    for (const int length : {1, 2, 63, 64, 65, 200, 300}) {
      const int num_pages = (length + kPageTokens - 1) / kPageTokens;
      PagedCase expected(shape.num_heads, shape.num_kv_heads, shape.head_dim, num_pages);
      PagedCase actual = expected;
      const std::vector<float> rows = RandomFloats(static_cast<size_t>(length * expected.width()),
                                                   static_cast<uint32_t>(length));
      expected.Add(0, length, Pages(0, num_pages), rows);
      actual.Add(0, length, Pages(0, num_pages), rows);
      const std::vector<float> want = expected.Run(reference->ops(), *stream_);
      const std::vector<float> got = actual.Run(device_->ops(), *stream_);
      EXPECT_EQ(actual.arena, expected.arena);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], Tolerance(1e-5F))
            << "head_dim " << shape.head_dim << " length " << length;
      }
      ExpectNearEnergies(actual.energy, expected.energy);
    }
  }
}

// A prompt of 700 tokens and three neighbours: whole, token by token, in odd chunks, beside others.
TEST_P(CpuOpsTest, AttentionOfATokenIsTheSameInAnyChunkAndBatch) {
  constexpr int kLength = 700;
  const int num_pages = (kLength + kPageTokens - 1) / kPageTokens;
  for (const AttentionShape& shape : {kShapes[0], kShapes[3]}) {
    PagedCase whole(shape.num_heads, shape.num_kv_heads, shape.head_dim, 4 * num_pages);
    const PagedCase empty = whole;
    const std::vector<float> rows = RandomFloats(static_cast<size_t>(kLength * whole.width()), 9);
    const std::vector<float> others =
        RandomFloats(static_cast<size_t>(kLength * whole.width()), 10);
    whole.Add(0, kLength, Pages(0, num_pages), rows);
    const std::vector<float> want = whole.Run(device_->ops(), *stream_);
    const size_t row_size = static_cast<size_t>(shape.num_heads * shape.head_dim);
    const std::unique_ptr<CpuDevice> one_thread = Make(1);
    for (const int chunk : {1, 7, 48, 65, 512}) {
      PagedCase paged = empty;
      const Ops& ops = chunk == 7 ? one_thread->ops() : device_->ops();
      for (int first = 0; first < kLength; first += chunk) {
        const int count = std::min(chunk, kLength - first);
        paged.ClearBatch();
        for (int other = 1; other < 4 && chunk > 1; ++other) {
          paged.Add(first, std::min(count, other * 9), Pages(other * num_pages, num_pages), others);
        }
        paged.Add(first, count, Pages(0, num_pages), rows);
        const std::vector<float> got = paged.Run(ops, *stream_);
        const size_t size = static_cast<size_t>(count) * row_size;
        ASSERT_EQ(0, std::memcmp(got.data() + got.size() - size,
                                 want.data() + static_cast<size_t>(first) * row_size,
                                 size * sizeof(float)))
            << "chunk " << chunk << " at " << first;
      }
    }
  }
}

// Whole pages and a whole split without a kept token, one token of a page, half of one, all.
constexpr uint64_t kMasks[] = {0, 0x0123456789abcdef, 1,  kKeepAll, 0, 0, 0, 0,
                               0, uint64_t{1} << 63,  ~1U};

TEST_P(CpuOpsTest, EvictedPositionsAreAsIfTheyWereNotThere) {
  const auto reference = CpuDevice::Create({.reference = true}).value();
  const int num_pages = static_cast<int>(std::size(kMasks)) + 1;
  const int length = num_pages * kPageTokens - 3;
  for (const AttentionShape& shape : kShapes) {
    PagedCase paged(shape.num_heads, shape.num_kv_heads, shape.head_dim, num_pages);
    const std::vector<float> rows =
        RandomFloats(static_cast<size_t>(length * paged.width()), 12, 1.0F);
    paged.Add(0, length, Pages(0, num_pages), rows);
    const std::vector<float> all = paged.Run(device_->ops(), *stream_);
    paged.masks.assign(static_cast<size_t>(num_pages * shape.num_kv_heads), kKeepAll);
    EXPECT_EQ(paged.Run(device_->ops(), *stream_), all);
    for (size_t i = 0; i < std::size(kMasks) * static_cast<size_t>(shape.num_kv_heads); ++i) {
      paged.masks[i] = kMasks[(i / static_cast<size_t>(shape.num_kv_heads) +
                               i % static_cast<size_t>(shape.num_kv_heads) * 5) %
                              std::size(kMasks)];
    }
    for (const int count : {61, 17, 1}) {  // query tokens, all in the last page
      paged.ClearBatch();
      paged.Add(length - count, count, Pages(0, num_pages), rows);
      const std::vector<float> want = paged.Run(reference->ops(), *stream_);
      const std::vector<float> want_energy = paged.energy;
      const std::vector<float> got = paged.Run(device_->ops(), *stream_);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], Tolerance(1e-5F)) << "head_dim " << shape.head_dim;
      }
      EXPECT_NE(got.back(), all.back());
      ExpectNearEnergies(paged.energy, want_energy);
    }
  }
}

// The tiers of the pages of a sequence that is read in one pass; the last page is being written.
constexpr Tier kTiers[] = {Tier::kWarm, Tier::kCold,    Tier::kHot,     Tier::kArchive,
                           Tier::kCold, Tier::kArchive, Tier::kArchive, Tier::kHot};

TEST_P(CpuOpsTest, OnePassOverAllTiersEqualsTheReference) {
  const auto reference = CpuDevice::Create({.reference = true}).value();
  const int num_pages = static_cast<int>(std::size(kTiers));
  const int length = num_pages * kPageTokens - 5;
  for (const AttentionShape& shape : kShapes) {
    for (const Codec cold : {Codec::kTurbo3, Codec::kTurboK4V3, Codec::kInt8}) {
      PagedCase paged(shape.num_heads, shape.num_kv_heads, shape.head_dim, num_pages);
      const Codec archive = cold == Codec::kTurbo3 ? Codec::kMerged2 : Codec::kMergedK3V2;
      if (std::max(BlockLayoutOf(cold, paged.layout).bytes,
                   BlockLayoutOf(archive, paged.layout).bytes) > paged.formats[0].head_stride) {
        continue;
      }
      std::vector<float> rows = RandomFloats(static_cast<size_t>(length * paged.width()), 3, 1.0F);
      // Keys around a mean that is larger than they are, as real ones.
      paged.mean_keys =
          RandomFloats(static_cast<size_t>(shape.num_kv_heads * shape.head_dim), 4, 2.0F);
      const auto key_width = paged.mean_keys.size();
      for (size_t t = 0; t < static_cast<size_t>(length); ++t) {
        for (size_t i = 0; i < key_width; ++i) {
          rows[t * static_cast<size_t>(paged.width()) +
               static_cast<size_t>(shape.num_heads * shape.head_dim) + i] += paged.mean_keys[i];
        }
      }
      paged.Add(0, length, Pages(0, num_pages), rows);
      const std::vector<float> hot = paged.Run(device_->ops(), *stream_);
      for (int i = 0; i < num_pages; ++i) {
        if (kTiers[i] != Tier::kHot) {
          paged.Cool(static_cast<PageId>(i), kTiers[i],
                     kTiers[i] == Tier::kWarm   ? Codec::kInt8
                     : kTiers[i] == Tier::kCold ? cold
                                                : archive);
        }
      }
      std::vector<float> all;
      for (const int count : {59, 17, 1}) {  // query tokens, all in the last page
        paged.ClearBatch();
        paged.Add(length - count, count, Pages(0, num_pages), rows);
        const std::vector<float> want = paged.Run(reference->ops(), *stream_);
        const std::vector<float> want_energy = paged.energy;
        const std::vector<float> got = paged.Run(device_->ops(), *stream_);
        ExpectNearEnergies(paged.energy, want_energy);
        double lossy = 0;
        double size = 0;
        for (size_t i = 0; i < want.size(); ++i) {
          ASSERT_NEAR(got[i], want[i], Tolerance(3e-5F))
              << "head_dim " << shape.head_dim << " codec " << static_cast<int>(cold);
          const float exact = hot[hot.size() - want.size() + i];
          lossy += std::pow(want[i] - exact, 2);
          size += std::pow(exact, 2);
        }
        EXPECT_LT(lossy, 0.2 * size) << "codes must stand for what they were made of";
        if (all.empty()) {
          all = got;
        }
        ASSERT_EQ(0, std::memcmp(got.data(), all.data() + all.size() - got.size(),
                                 got.size() * sizeof(float)))
            << "a token's result depends on how many others are in the batch";
      }
    }
  }
}

TEST_P(CpuOpsTest, RotationEqualsTheReferenceAndGoesBack) {
  const auto reference = CpuDevice::Create({.reference = true}).value();
  for (const int dim : {8, 24, 64, 80, 96, 128, 256}) {
    const std::vector<float> signs = RotationSigns(dim, 1);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(5 * 4 * dim), 2);
    std::vector<float> want = x;
    std::vector<float> got = x;
    const auto rotate = [&](const Ops& ops, std::vector<float>& rows, Rotation rotation) {
      ops.Rotate(Tensor(rows.data(), {5, 4 * dim}), 3, signs, rotation, *stream_);
    };
    rotate(reference->ops(), want, Rotation::kForward);
    rotate(device_->ops(), got, Rotation::kForward);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(got[i], want[i]) << "head_dim " << dim;
      if (static_cast<int>(i) % (4 * dim) >= 3 * dim) {
        ASSERT_EQ(got[i], x[i]);  // the fourth head was not to be rotated
      }
    }
    rotate(device_->ops(), got, Rotation::kBack);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(got[i], x[i], 2e-6F) << "head_dim " << dim;
    }
  }
}

// Hot -> warm -> cold -> cold elsewhere, and back to hot; the page map stays as it is.
TEST_P(CpuOpsTest, TranscodedPagesHaveTheReferencesBytes) {
  const auto reference = CpuDevice::Create({.reference = true}).value();
  const KvLayout layout{.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .page_tokens = 64};
  std::vector<LayerFormat> formats(2 * kNumTiers);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const auto set = [&](Tier tier, Codec codec) {
      const uint32_t bytes = BlockLayoutOf(codec, layout).bytes;
      formats[layer * kNumTiers + static_cast<uint32_t>(tier)] = {
          .codec = codec,
          .layer_offset = layer * 2 * NativeHeadBytes(layout),
          .head_stride = bytes};
    };
    set(Tier::kHot, Codec::kNative);
    set(Tier::kWarm, Codec::kInt8);
    set(Tier::kCold, layer == 0 ? Codec::kTurboK4V3 : Codec::kTurbo3);  // layers may differ
  }
  const uint32_t page_units = 2 * 2 * NativeHeadBytes(layout) / kArenaUnitBytes;
  std::vector<std::byte> want(size_t{5} * page_units * kArenaUnitBytes);
  const std::vector<float> values = RandomFloats(size_t{4} * 2 * 64 * 64, 6);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = FloatToHalf(values[i]);
    std::memcpy(want.data() + 2 * i, &half, 2);
  }
  std::vector<std::byte> got = want;
  const std::vector<float> means = RandomFloats(size_t{2} * 2 * 64, 7);
  const auto at = [&](Tier tier, uint32_t index) { return PageEntry(tier, index * page_units); };
  // Each move's source is what the one before it has left, checksum and all.
  std::vector<PageMove> moves = {{.from = at(Tier::kHot, 0), .to = at(Tier::kWarm, 1)},
                                 {.from = at(Tier::kWarm, 1), .to = at(Tier::kCold, 2)},
                                 {.from = at(Tier::kCold, 2), .to = at(Tier::kCold, 3)},
                                 {.from = at(Tier::kCold, 3), .to = at(Tier::kHot, 4)}};
  const auto transcode = [&](const Ops& ops, std::vector<std::byte>& arena) {
    const KvCacheView kv{.arena = arena.data(),
                         .formats = formats.data(),
                         .layout = layout,
                         .mean_keys = means.data()};
    std::vector<MoveResult> results(moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
      ops.TranscodePages(std::span(&moves[i], 1), kv, std::span(&results[i], 1), *stream_);
      if (i + 1 < moves.size()) {
        moves[i + 1].checksum = results[i].checksum;
      }
    }
    return results;
  };
  const auto wanted = transcode(reference->ops(), want);
  const auto results = transcode(device_->ops(), got);
  for (size_t i = 0; i < moves.size(); ++i) {
    EXPECT_EQ(results[i].outcome, MoveResult::Outcome::kOk);
    EXPECT_EQ(results[i].checksum, wanted[i].checksum);
  }
  EXPECT_EQ(results[1].checksum, results[2].checksum);
  EXPECT_EQ(got, want);
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < values.size(); ++i) {  // the mean key came off and on again
    uint16_t half = 0;
    std::memcpy(&half, got.data() + size_t{4} * page_units * kArenaUnitBytes + 2 * i, 2);
    error += std::pow(HalfToFloat(half) - values[i], 2);
    size += std::pow(values[i], 2);
  }
  EXPECT_LT(error, 0.1 * size);
  got[1] = std::byte{0x7e};  // a half NaN
  EXPECT_EQ(transcode(device_->ops(), got)[0].outcome, MoveResult::Outcome::kNotFinite);

  // One bit of a coded page has changed since it was written.
  got = want;
  got[size_t{page_units} * kArenaUnitBytes + 100] ^= std::byte{4};
  moves = {{.from = at(Tier::kWarm, 1), .to = at(Tier::kCold, 2), .checksum = wanted[0].checksum}};
  EXPECT_EQ(transcode(device_->ops(), got)[0].outcome, MoveResult::Outcome::kCorrupt);
  EXPECT_EQ(transcode(device_->ops(), want)[0].outcome, MoveResult::Outcome::kOk);
}

TEST_P(CpuOpsTest, AttentionIgnoresWhatAPageHeldBefore) {
  PagedCase clean(4, 2, 32, 1);
  PagedCase dirty = clean;
  for (size_t i = 0; i < dirty.arena.size(); i += 2) {  // half NaN everywhere
    dirty.arena[i] = std::byte{0xff};
    dirty.arena[i + 1] = std::byte{0x7f};
  }
  const std::vector<float> rows = RandomFloats(static_cast<size_t>(20 * clean.width()), 1);
  clean.Add(0, 20, {0}, rows);
  dirty.Add(0, 20, {0}, rows);
  EXPECT_EQ(clean.Run(device_->ops(), *stream_), dirty.Run(device_->ops(), *stream_));
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuOpsTest, testing::ValuesIn(kIsaLevels),
                         [](const auto& param) {
                           std::string name = IsaName(param.param);
                           std::erase(name, '-');
                           return name;
                         });

TEST(Half, EveryHalfSurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      EXPECT_EQ(FloatToHalf(value), half);
    }
  }
}

TEST_P(CpuOpsTest, HalvesRoundAsThePortableConversionDoes) {
  // Through AppendKv, the one place that writes halves.
  std::vector<float> values = RandomFloats(4096, 3, 1.0F);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(values[i], static_cast<int>(i % 48) - 30);
  }
  PagedCase paged(1, 1, 64, 1);
  const int num_tokens = static_cast<int>(values.size()) / paged.width();
  paged.Add(0, num_tokens, {0}, values);
  paged.Run(device_->ops(), *stream_);
  for (int t = 0; t < num_tokens; ++t) {
    for (int i = 0; i < 64; ++i) {
      uint16_t half = 0;
      std::memcpy(&half, paged.arena.data() + 2 * (t * 64 + i), 2);
      EXPECT_EQ(half, FloatToHalf(values[static_cast<size_t>(t * 192 + 64 + i)]));
    }
  }
}

}  // namespace
}  // namespace thermocline
