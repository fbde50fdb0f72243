#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/half.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/rotation.h"
#include "tests/testing/delayed_device.h"
#include "tests/testing/ops_rig.h"
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

// A device that operations are tested on: they all run the same tests.
struct TestedDevice {
  const char* name;
  std::optional<IsaLevel> isa;  // nothing: the best
  bool is_delayed = false;
};
constexpr TestedDevice kDevices[] = {
    {"generic", IsaLevel::kGeneric}, {"avx2", IsaLevel::kAvx2}, {"avxvnni", IsaLevel::kAvxVnni},
    {"avx512", IsaLevel::kAvx512},   {"amx", IsaLevel::kAmx},   {"delayed", std::nullopt, true}};

class OpsTest : public testing::TestWithParam<TestedDevice> {
 protected:
  void SetUp() override {
    if (!CpuHas(Isa())) {
      GTEST_SKIP() << "THIS CPU CANNOT RUN " << IsaName(Isa());
    }
    rig_.emplace(Make(2));
    reference_.emplace(CpuDevice::Create({.reference = true}).value());
  }

  static IsaLevel Isa() {
    static const IsaLevel best = DetectIsa();  // slow to ask under a hypervisor
    return GetParam().isa.value_or(best);
  }
  static std::unique_ptr<Device> Make(int num_threads) {
    std::unique_ptr<Device> cpu =
        CpuDevice::Create({.num_threads = num_threads, .isa = Isa()}).value();
    return GetParam().is_delayed ? std::make_unique<DelayedDevice>(std::move(cpu)) : std::move(cpu);
  }

  static std::vector<float> MatMul(OpsRig& rig, const Weight& weight, const std::vector<float>& x,
                                   int64_t num_tokens, MatMulMode mode = MatMulMode::kStore) {
    const Tensor y =
        rig.Upload(std::vector<float>(static_cast<size_t>(num_tokens * weight.rows()), 1.0F),
                   {num_tokens, weight.rows()});
    rig.ops().MatMul(rig.Upload(x, {num_tokens, weight.cols()}), weight, y, mode, rig.stream());
    return rig.Download(y);
  }
  const Ops& ops() const { return rig_->ops(); }

  static bool HasWords() { return Isa() >= IsaLevel::kAvx512; }
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

  std::optional<OpsRig> rig_;
  std::optional<OpsRig> reference_;
};

TEST_P(OpsTest, MatMulOfEveryTypeEqualsDoubleArithmetic) {
  constexpr int64_t kRows = 53;  // not whole panels
  constexpr int64_t kCols = 512;
  for (const WeightType type : kAllWeightTypes) {
    const RandomWeight random = MakeRandomWeight(type, kRows, kCols, 7);
    std::vector<float> decoded(kRows * kCols);
    Dequantize(type, random.source.data, kRows * kCols, decoded.data());
    const std::unique_ptr<Weight> weight =
        ops().PrepareWeight(std::span(&random.source, 1)).value();
    const bool quantized = GetWeightTypeInfo(type)->block_elements > 1;
    for (const int64_t num_tokens : {1, 2, 3, 5, 8, 12, 13, 31}) {
      const std::vector<float> x = RandomFloats(static_cast<size_t>(num_tokens * kCols), 3);
      const std::vector<double> exact_x =
          quantized ? QuantizeActivations(x) : std::vector<double>(x.begin(), x.end());
      const std::vector<float> y = MatMul(*rig_, *weight, x, num_tokens);
      const std::vector<float> added = MatMul(*rig_, *weight, x, num_tokens, MatMulMode::kAdd);
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

TEST_P(OpsTest, MatMulOfARowIsTheSameInAnyBatchAndWithAnyThreads) {
  constexpr int64_t kRows = 80;
  constexpr int64_t kCols = 256;
  constexpr int64_t kTokens = 40;
  for (const WeightType type : kAllWeightTypes) {
    const RandomWeight random = MakeRandomWeight(type, kRows, kCols, 11);
    const std::vector<float> x = RandomFloats(kTokens * kCols, 5);
    std::vector<float> alone;
    for (const int num_threads : {1, 2, 3}) {
      OpsRig rig(Make(num_threads));
      const std::unique_ptr<Weight> weight =
          rig.ops().PrepareWeight(std::span(&random.source, 1)).value();
      if (alone.empty()) {
        for (int64_t t = 0; t < kTokens; ++t) {
          const std::vector<float> row(x.begin() + t * kCols, x.begin() + (t + 1) * kCols);
          const std::vector<float> y = MatMul(rig, *weight, row, 1);
          alone.insert(alone.end(), y.begin(), y.end());
        }
      }
      for (int64_t num_tokens = 2; num_tokens <= kTokens; ++num_tokens) {
        const std::vector<float> part(x.begin(), x.begin() + num_tokens * kCols);
        const std::vector<float> y = MatMul(rig, *weight, part, num_tokens);
        ASSERT_EQ(0, std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)))
            << GetWeightTypeInfo(type)->name << ", " << num_tokens << " tokens";
      }
    }
  }
}

TEST_P(OpsTest, StackedPartsOfDifferentTypesKeepTheirRows) {
  const RandomWeight a = MakeRandomWeight(WeightType::kQ4_K, 20, 256, 1);
  const RandomWeight b = MakeRandomWeight(WeightType::kQ6_K, 7, 256, 2);
  const std::vector<WeightSource> parts = {a.source, b.source};
  const std::vector<float> x = RandomFloats(3 * 256, 3);
  const auto both = MatMul(*rig_, *ops().PrepareWeight(parts).value(), x, 3);
  const auto only_a = MatMul(*rig_, *ops().PrepareWeight(std::span(&a.source, 1)).value(), x, 3);
  const auto only_b = MatMul(*rig_, *ops().PrepareWeight(std::span(&b.source, 1)).value(), x, 3);
  for (size_t t = 0; t < 3; ++t) {
    for (size_t r = 0; r < 27; ++r) {
      EXPECT_EQ(both[t * 27 + r], r < 20 ? only_a[t * 20 + r] : only_b[t * 7 + r - 20]);
    }
  }
}

TEST_P(OpsTest, EmbeddedRowsAreTheSourcesToTheLastBit) {
  constexpr int64_t kRows = 37;  // not whole panels
  constexpr int64_t kCols = 512;
  for (const WeightType type : kAllWeightTypes) {
    const RandomWeight parts[] = {MakeRandomWeight(WeightType::kQ8_0, 5, kCols, 3),
                                  MakeRandomWeight(type, kRows, kCols, 4)};
    const WeightSource sources[] = {parts[0].source, parts[1].source};
    const std::unique_ptr<Weight> table = ops().PrepareWeight(sources).value();
    std::vector<float> want(static_cast<size_t>(table->rows() * kCols));
    Dequantize(WeightType::kQ8_0, sources[0].data, 5 * kCols, want.data());
    Dequantize(type, sources[1].data, kRows * kCols, want.data() + 5 * kCols);
    std::vector<TokenId> tokens;
    for (int64_t row = table->rows() - 1; row >= 0; --row) {
      tokens.push_back(static_cast<TokenId>(row));
    }
    const Tensor rows = rig_->Upload(std::vector<float>(want.size()), {table->rows(), kCols});
    ops().Embed({.num_tokens = static_cast<int>(tokens.size()), .tokens = tokens.data()}, *table,
                rows, rig_->stream());
    const std::vector<float> got = rig_->Download(rows);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const float* row = want.data() + tokens[i] * kCols;
      ASSERT_TRUE(std::equal(row, row + kCols, got.data() + i * kCols))
          << GetWeightTypeInfo(type)->name << " row " << tokens[i];
    }
  }
}

TEST_P(OpsTest, NonFiniteActivationsDoNotLookSane) {
  const RandomWeight random = MakeRandomWeight(WeightType::kQ4_1, 16, 64, 1);
  const auto weight = ops().PrepareWeight(std::span(&random.source, 1)).value();
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x = RandomFloats(64, 3);
    x[37] = bad;
    for (const float y : MatMul(*rig_, *weight, x, 1)) {
      EXPECT_FALSE(std::isfinite(y));
    }
  }
}

TEST_P(OpsTest, RowwiseOperationsEqualTheReference) {
  for (const int64_t dim : {2, 16, 30, 64, 576}) {
    constexpr int64_t kTokens = 5;
    const auto size = static_cast<size_t>(kTokens * dim);
    const std::vector<float> gain = RandomFloats(static_cast<size_t>(dim), 1);
    const std::vector<float> x = RandomFloats(size, 2, 3.0F);
    const std::vector<float> gate_up = RandomFloats(2 * size, 3, 6.0F);
    const std::vector<float> angles = RandomFloats(size, 4);
    const auto run = [&](OpsRig& rig) {
      std::vector<std::vector<float>> results;
      const Tensor out = rig.Upload(x, {kTokens, dim});
      rig.ops().RmsNorm(rig.Upload(x, {kTokens, dim}), rig.Upload(gain, {dim}), 1e-5F, out,
                        rig.stream());
      results.push_back(rig.Download(out));
      for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
        rig.ops().GatedActivation(rig.Upload(gate_up, {kTokens, 2 * dim}), activation, out,
                                  rig.stream());
        results.push_back(rig.Download(out));
      }
      for (const RopeStyle style : {RopeStyle::kInterleaved, RopeStyle::kHalves}) {
        const Tensor heads = rig.Upload(x, {kTokens, dim});
        rig.ops().Rope(heads, 1, static_cast<int>(dim), rig.Upload(angles, {kTokens, dim / 2, 2}),
                       style, rig.stream());
        results.push_back(rig.Download(heads));
      }
      const Tensor biased = rig.Upload(x, {kTokens, dim});
      rig.ops().AddBias(biased, rig.Upload(gain, {dim}), rig.stream());
      results.push_back(rig.Download(biased));
      return results;
    };
    const auto expected = run(*reference_);
    const auto actual = run(*rig_);
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
            .mean_keys = mean_keys.empty() ? nullptr : mean_keys.data()};
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

  BatchView batch() const {
    return {.num_tokens = static_cast<int>(positions.size()),
            .num_sequences = static_cast<int>(sequence_starts.size()) - 1,
            .sequence_starts = sequence_starts.data(),
            .positions = positions.data(),
            .page_starts = page_starts.data(),
            .page_ids = page_ids.data()};
  }

  // AppendKv, then attention; the arena is what they left of it. `step`: loaded first, unless null.
  std::vector<float> Run(OpsRig& rig, StepData* step = nullptr) {
    BatchView batch = this->batch();
    const int num_tokens = batch.num_tokens;
    KvCacheView kv = view();
    kv.arena = rig.Upload(arena);
    kv.mean_keys = rig.Upload(mean_keys);
    if (step != nullptr) {
      batch.on_device = step;
      rig.ops().LoadStep(batch, kv, rig.stream());
    }
    const Tensor rows = rig.Upload(qkv, {num_tokens, width()});
    const int k_column = num_heads * layout.head_dim;
    rig.ops().AppendKv(rows, k_column, k_column + layout.num_kv_heads * layout.head_dim, batch, kv,
                       0, rig.stream());
    const int64_t out_width = int64_t{num_heads} * layout.head_dim;
    const Tensor out = rig.Upload(std::vector<float>(static_cast<size_t>(num_tokens * out_width)),
                                  {num_tokens, out_width});
    const size_t num_energies = page_ids.size() * static_cast<size_t>(layout.num_kv_heads);
    float* energies = rig.Upload(std::vector<float>(num_energies, -1.0F));
    rig.ops().PagedAttention(rows, num_heads, batch, kv,
                             {.layer = 0,
                              .scale = 1 / std::sqrt(static_cast<float>(layout.head_dim)),
                              .page_energy = energies},
                             out, rig.stream());
    energy = rig.Download(static_cast<const float*>(energies), num_energies);
    arena = rig.Download(static_cast<const std::byte*>(kv.arena), arena.size());
    std::vector<float> result = rig.Download(out);
    rig.Reuse();
    return result;
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

TEST_P(OpsTest, AttentionEqualsTheReferenceAtPageEdges) {
  for (const AttentionShape& shape : kShapes) {
    for (const int length : {1, 2, 63, 64, 65, 200, 300}) {
      const int num_pages = (length + kPageTokens - 1) / kPageTokens;
      PagedCase expected(shape.num_heads, shape.num_kv_heads, shape.head_dim, num_pages);
      PagedCase actual = expected;
      const std::vector<float> rows = RandomFloats(static_cast<size_t>(length * expected.width()),
                                                   static_cast<uint32_t>(length));
      expected.Add(0, length, Pages(0, num_pages), rows);
      actual.Add(0, length, Pages(0, num_pages), rows);
      const std::vector<float> want = expected.Run(*reference_);
      const std::vector<float> got = actual.Run(*rig_);
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
TEST_P(OpsTest, AttentionOfATokenIsTheSameInAnyChunkAndBatch) {
  constexpr int kLength = 700;
  const int num_pages = (kLength + kPageTokens - 1) / kPageTokens;
  for (const AttentionShape& shape : {kShapes[0], kShapes[3]}) {
    PagedCase whole(shape.num_heads, shape.num_kv_heads, shape.head_dim, 4 * num_pages);
    const PagedCase empty = whole;
    const std::vector<float> rows = RandomFloats(static_cast<size_t>(kLength * whole.width()), 9);
    const std::vector<float> others =
        RandomFloats(static_cast<size_t>(kLength * whole.width()), 10);
    whole.Add(0, kLength, Pages(0, num_pages), rows);
    const std::vector<float> want = whole.Run(*rig_);
    const size_t row_size = static_cast<size_t>(shape.num_heads * shape.head_dim);
    OpsRig one_thread(Make(1));
    for (const int chunk : {1, 7, 48, 65, 512}) {
      PagedCase paged = empty;
      OpsRig& rig = chunk == 7 ? one_thread : *rig_;
      for (int first = 0; first < kLength; first += chunk) {
        const int count = std::min(chunk, kLength - first);
        paged.ClearBatch();
        for (int other = 1; other < 4 && chunk > 1; ++other) {
          paged.Add(first, std::min(count, other * 9), Pages(other * num_pages, num_pages), others);
        }
        paged.Add(first, count, Pages(0, num_pages), rows);
        const std::vector<float> got = paged.Run(rig);
        const size_t size = static_cast<size_t>(count) * row_size;
        ASSERT_EQ(0, std::memcmp(got.data() + got.size() - size,
                                 want.data() + static_cast<size_t>(first) * row_size,
                                 size * sizeof(float)))
            << "chunk " << chunk << " at " << first;
      }
    }
  }
}

// The tiers of the pages of a sequence that is read in one pass; the last page is being written.
constexpr Tier kTiers[] = {Tier::kWarm, Tier::kCold,    Tier::kHot,     Tier::kArchive,
                           Tier::kCold, Tier::kArchive, Tier::kArchive, Tier::kHot};

TEST_P(OpsTest, OnePassOverAllTiersEqualsTheReference) {
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
      const std::vector<float> hot = paged.Run(*rig_);
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
        const std::vector<float> want = paged.Run(*reference_);
        const std::vector<float> want_energy = paged.energy;
        const std::vector<float> got = paged.Run(*rig_);
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

TEST_P(OpsTest, RotationEqualsTheReferenceAndGoesBack) {
  for (const int dim : {8, 24, 64, 80, 96, 128, 256}) {
    const std::vector<float> signs = RotationSigns(dim, 1);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(5 * 4 * dim), 2);
    std::vector<float> want = x;
    std::vector<float> got = x;
    const auto rotate = [&](OpsRig& rig, std::vector<float>& values, Rotation rotation) {
      const Tensor rows = rig.Upload(values, {5, 4 * dim});
      rig.ops().Rotate(rows, 3, rig.Upload(signs, {dim}), rotation, rig.stream());
      values = rig.Download(rows);
    };
    rotate(*reference_, want, Rotation::kForward);
    rotate(*rig_, got, Rotation::kForward);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(got[i], want[i]) << "head_dim " << dim;
      if (static_cast<int>(i) % (4 * dim) >= 3 * dim) {
        ASSERT_EQ(got[i], x[i]);  // the fourth head was not to be rotated
      }
    }
    rotate(*rig_, got, Rotation::kBack);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(got[i], x[i], 2e-6F) << "head_dim " << dim;
    }
  }
}

// Hot -> warm -> cold -> cold elsewhere, and back to hot; the page map stays as it is.
TEST_P(OpsTest, TranscodedPagesHaveTheReferencesBytes) {
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
  const auto transcode = [&](OpsRig& rig, std::vector<std::byte>& arena) {
    const KvCacheView kv{.arena = rig.Upload(arena),
                         .formats = formats.data(),
                         .layout = layout,
                         .mean_keys = rig.Upload(means)};
    std::vector<MoveResult> results(moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
      rig.ops().TranscodePages(std::span(&moves[i], 1), kv, std::span(&results[i], 1),
                               rig.stream());
      rig.Sync();
      if (i + 1 < moves.size()) {
        moves[i + 1].checksum = results[i].checksum;
      }
    }
    arena = rig.Download(static_cast<const std::byte*>(kv.arena), arena.size());
    return results;
  };
  const auto wanted = transcode(*reference_, want);
  const auto results = transcode(*rig_, got);
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
  EXPECT_EQ(transcode(*rig_, got)[0].outcome, MoveResult::Outcome::kNotFinite);

  // One bit of a coded page has changed since it was written.
  got = want;
  got[size_t{page_units} * kArenaUnitBytes + 100] ^= std::byte{4};
  moves = {{.from = at(Tier::kWarm, 1), .to = at(Tier::kCold, 2), .checksum = wanted[0].checksum}};
  EXPECT_EQ(transcode(*rig_, got)[0].outcome, MoveResult::Outcome::kCorrupt);
  EXPECT_EQ(transcode(*rig_, want)[0].outcome, MoveResult::Outcome::kOk);
}

TEST_P(OpsTest, AttentionIgnoresWhatAPageHeldBefore) {
  PagedCase clean(4, 2, 32, 1);
  PagedCase dirty = clean;
  for (size_t i = 0; i < dirty.arena.size(); i += 2) {  // half NaN everywhere
    dirty.arena[i] = std::byte{0xff};
    dirty.arena[i + 1] = std::byte{0x7f};
  }
  const std::vector<float> rows = RandomFloats(static_cast<size_t>(20 * clean.width()), 1);
  clean.Add(0, 20, {0}, rows);
  dirty.Add(0, 20, {0}, rows);
  EXPECT_EQ(clean.Run(*rig_), dirty.Run(*rig_));
}

// Some rows, twice and in any order, and those of a step that was loaded as of one that was not.
TEST_P(OpsTest, GatheredRowsAreThoseAskedFor) {
  const std::vector<float> x = RandomFloats(5 * 24, 8);
  const std::vector<int32_t> rows = {4, 0, 4, 2};
  const Tensor out = rig_->Upload(std::vector<float>(4 * 24), {4, 24});
  std::vector<int32_t> lent = rows;  // read before the call returns
  ops().GatherRows(rig_->Upload(x, {5, 24}), lent, out, rig_->stream());
  std::fill(lent.begin(), lent.end(), 1);
  const std::vector<float> got = rig_->Download(out);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_TRUE(std::equal(got.begin() + static_cast<ptrdiff_t>(i * 24),
                           got.begin() + static_cast<ptrdiff_t>((i + 1) * 24),
                           x.begin() + rows[i] * 24));
  }
}

TEST_P(OpsTest, ALoadedStepComputesWhatOneThatIsNotLoadedDoes) {
  const AttentionShape shape = kShapes[0];
  PagedCase paged(shape.num_heads, shape.num_kv_heads, shape.head_dim, 6);
  const std::vector<float> rows = RandomFloats(static_cast<size_t>(200 * paged.width()), 5);
  const auto step =
      ops().NewStepData({.num_heads = shape.num_heads, .max_tokens = 200}, paged.layout);
  for (const int length : {70, 1, 130}) {  // the same room for steps of all sizes
    paged.ClearBatch();
    paged.Add(0, length, Pages(0, 3), rows);
    paged.Add(0, 3, Pages(3, 1), rows);
    PagedCase loaded = paged;
    const std::vector<float> want = paged.Run(*rig_);
    EXPECT_EQ(loaded.Run(*rig_, step.get()), want);
    EXPECT_EQ(loaded.energy, paged.energy);
    EXPECT_EQ(loaded.arena, paged.arena);
  }
}

TEST_P(OpsTest, FoldedEnergiesAreTheGreatestAndTheMean) {
  // [2 layers, 3 pages, 2 heads]
  const std::vector<float> energies = {1, 2, 0, 0, 5, 0, 3, 2, 0, 0, 0, 7};
  const Tensor heat = rig_->Upload(std::vector<float>(6), {3, 2});
  ops().FoldEnergies(rig_->Upload(energies, {2, 3, 2}), heat, rig_->stream());
  EXPECT_EQ(rig_->Download(heat), (std::vector<float>{3, 2, 0, 0, 7, 3}));
}

TEST_P(OpsTest, TokensAreDrawnOfTheFirstPartOfTheirRow) {
  constexpr int kWidth = 5;
  constexpr int kVocab = 4;
  const std::vector<float> logits = {0,
                                     3,
                                     1,
                                     3,
                                     9,  // the best, the first of two
                                     NAN,
                                     0,
                                     0,
                                     0,
                                     0,  //
                                     -INFINITY,
                                     -INFINITY,
                                     2,
                                     -INFINITY,
                                     9,  //
                                     std::log(0.5F),
                                     std::log(0.3F),
                                     std::log(0.15F),
                                     std::log(0.05F),
                                     9};
  const std::vector<RowDraw> draws = {
      {.row = 3, .temperature = 1, .uniform = 0.79},
      {.row = 3, .temperature = 1, .uniform = 0.81},
      {.row = 0},
      {.row = 1},
      {.row = 2, .temperature = 1, .uniform = 0.999},
      {.row = 3, .temperature = 1, .top_p = 0.75F, .uniform = 0.99},  // of 0.5 and 0.3
      {.row = 3, .temperature = 1, .min_p = 0.5F, .uniform = 0.99},   // the same
      {.row = 3, .temperature = 1, .top_k = 1, .uniform = 0.99},
      {.row = 3, .temperature = 100, .uniform = 0.99},
      {.row = 3}};
  std::vector<TokenId> tokens(draws.size(), -7);
  ops().DrawTokens(rig_->Upload(logits, {4, kWidth}), kVocab, draws, tokens.data(), rig_->stream());
  rig_->Sync();
  EXPECT_EQ(tokens, (std::vector<TokenId>{1, 2, 1, -1, 2, 1, 1, 0, 3, 0}));
}

TEST_P(OpsTest, FinishedQkvIsBiasedRotatedAndInTheCache) {
  const AttentionShape shape = kShapes[0];
  PagedCase paged(shape.num_heads, shape.num_kv_heads, shape.head_dim, 1);
  const std::vector<float> rows = RandomFloats(static_cast<size_t>(7 * paged.width()), 5);
  paged.Add(0, 7, {0}, rows);
  const std::vector<float> bias = RandomFloats(static_cast<size_t>(paged.width()), 6);
  const std::vector<float> angles = RandomFloats(7 * 64, 7);
  const std::vector<float> signs = RotationSigns(64, 1);
  const auto run = [&](OpsRig& rig, bool is_one) {
    const BatchView batch = paged.batch();
    KvCacheView kv = paged.view();
    kv.arena = rig.Upload(paged.arena);
    const Tensor qkv = rig.Upload(paged.qkv, {7, paged.width()});
    const Tensor cos_sin = rig.Upload(angles, {7, 32, 2});
    const QkvParams params{.num_heads = shape.num_heads,
                           .bias = rig.Upload(bias, {paged.width()}),
                           .cos_sin = cos_sin,
                           .style = RopeStyle::kHalves,
                           .signs = rig.Upload(signs, {64})};
    if (is_one) {
      rig.ops().FinishQkv(qkv, params, batch, kv, rig.stream());
    } else {
      rig.ops().AddBias(qkv, params.bias, rig.stream());
      rig.ops().Rope(qkv, 12, 64, cos_sin, params.style, rig.stream());
      rig.ops().Rotate(qkv, 15, params.signs, Rotation::kForward, rig.stream());
      rig.ops().AppendKv(qkv, 9 * 64, 12 * 64, batch, kv, 0, rig.stream());
    }
    const auto arena = rig.Download(static_cast<const std::byte*>(kv.arena), paged.arena.size());
    return std::pair(rig.Download(qkv), arena);
  };
  EXPECT_EQ(run(*rig_, true), run(*rig_, false));
  const std::vector<float> got = run(*rig_, true).first;
  const std::vector<float> want = run(*reference_, true).first;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 2e-5F);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryDevice, OpsTest, testing::ValuesIn(kDevices),
                         [](const auto& param) { return std::string(param.param.name); });

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

TEST_P(OpsTest, HalvesRoundAsThePortableConversionDoes) {
  // Through AppendKv, the one place that writes halves.
  std::vector<float> values = RandomFloats(4096, 3, 1.0F);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(values[i], static_cast<int>(i % 48) - 30);
  }
  PagedCase paged(1, 1, 64, 1);
  const int num_tokens = static_cast<int>(values.size()) / paged.width();
  paged.Add(0, num_tokens, {0}, values);
  paged.Run(*rig_);
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
