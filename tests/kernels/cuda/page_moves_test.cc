#include "kernels/cuda/moves/page_moves.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/half.h"
#include "kernels/cpu/isa/isa_level.h"
#include "kernels/cpu/isa/isa_table.h"
#include "kernels/cuda/moves/host_moves.h"
#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"
#include "kernels/quant/query_factors.h"
#include "kernels/quant/rotation.h"
#include "tests/kernels/cuda/grid_orders.h"
#include "tests/testing/isa_tables.h"

namespace thermocline {
namespace {

std::vector<float> Normal(size_t count, float scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(count);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  return x;
}

// Factors of query moments in which neighbours are alike, another for each head.
std::vector<float> Factors(int num_heads, int dim) {
  std::vector<float> moments;
  for (int head = 0; head < num_heads; ++head) {
    for (int i = 0; i < dim; ++i) {
      for (int j = 0; j < dim; ++j) {
        const double near = std::pow(0.3 + 0.1 * (head % 5), std::abs(i - j));
        moments.push_back(static_cast<float>(near * (1.0 + 0.01 * std::min(i, j))));
      }
    }
  }
  return FactorQueryMoments(moments, dim);
}

struct Shape {
  int num_layers;
  int num_kv_heads;
  int head_dim;
  int page_tokens = 64;
};

// Small heads fill no panel, so that their coded blocks can be larger than native ones.
uint32_t LargestBlock(const KvLayout& layout) {
  return std::max(BlockLayoutOf(Codec::kNative, layout).bytes,
                  BlockLayoutOf(Codec::kInt8, layout).bytes);
}

// The functions of the machine's best instruction set, which have the reference's bits.
VectorQuantizer FastQuantizer() {
  const IsaTable& isa = *IsaTablesHere().back().second;
  return {.turbo = isa.quantize_turbo,
          .int8 = isa.quantize_int8,
          .keys = isa.quantize_keys,
          .distances = isa.measure_keys,
          .decode_turbo = isa.dequantize_turbo,
          .decode_int8 = isa.dequantize_int8,
          .half_to_float = isa.half_to_float,
          .float_to_half = isa.float_to_half};
}

// An arena with hot pages, and room for pages of all tiers. Layers of a tier have codecs in turn.
class Arena {
 public:
  struct Extras {
    bool means = true;
    bool factors = true;
    bool bias = false;  // in all layers
  };

  Arena(const Shape& shape, int num_pages, Extras extras)
      : layout_{shape.num_layers, shape.num_kv_heads, shape.head_dim, shape.page_tokens},
        formats_(static_cast<size_t>(shape.num_layers * kNumTiers)),
        page_units_(static_cast<uint32_t>(
            (NumMoveBlocks(layout_) * LargestBlock(layout_) + kArenaUnitBytes - 1) /
            kArenaUnitBytes)),
        bytes_(static_cast<size_t>(num_pages) * page_units_ * kArenaUnitBytes) {
    SetTier(Tier::kHot, {Codec::kNative});
    const auto num_heads = static_cast<int>(NumMoveBlocks(layout_));
    if (extras.means) {
      means_ = Normal(static_cast<size_t>(num_heads * shape.head_dim), 1.0F, 4);
    }
    if (extras.factors) {
      factors_ = Factors(num_heads, shape.head_dim);
    }
    if (extras.bias) {
      const std::vector<float> biases =
          Normal(static_cast<size_t>(num_heads * shape.head_dim), 20.0F, 5);
      std::vector<float> frequencies;
      for (int i = 0; i < shape.head_dim / 2; ++i) {
        frequencies.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / shape.head_dim)));
      }
      bias_ = std::make_unique<KeyBias>(
          layout_, biases,
          KeyBias::Rope{.style = RopeStyle::kHalves, .frequencies = frequencies, .magnitude = 1.1F},
          RotationSigns(shape.head_dim, 5), 8 * shape.page_tokens);
    }
  }

  void SetTier(Tier tier, const std::vector<Codec>& codecs) {
    uint32_t offset = 0;
    for (int layer = 0; layer < layout_.num_layers; ++layer) {
      const Codec codec = codecs[static_cast<size_t>(layer) % codecs.size()];
      const uint32_t bytes = BlockLayoutOf(codec, layout_).bytes;
      formats_[static_cast<size_t>(layer * kNumTiers) + static_cast<size_t>(tier)] = {codec, offset,
                                                                                      bytes};
      offset += static_cast<uint32_t>(layout_.num_kv_heads) * bytes;
    }
  }
  PageEntry At(Tier tier, int page) const {
    return {tier, static_cast<uint32_t>(page) * page_units_};
  }
  std::byte* page(int index) {
    return bytes_.data() + static_cast<size_t>(index) * page_units_ * kArenaUnitBytes;
  }
  // Halves of a page that is hot. Some keys are alike, one is zero, one tiny and one huge.
  void FillHot(int index, uint64_t seed) {
    const auto vectors = static_cast<size_t>(2 * NumMoveBlocks(layout_) * layout_.page_tokens);
    const auto dim = static_cast<size_t>(layout_.head_dim);
    std::vector<float> x = Normal(vectors * dim, 1.5F, seed);
    for (size_t i = 0; i < vectors; ++i) {
      const float size = i % 37 == 5 ? 0.0F : i % 41 == 7 ? 3e-5F : i % 43 == 9 ? 900.0F : 1.0F;
      for (size_t k = 0; k < dim; ++k) {
        x[i * dim + k] *= size;
        if (i % 7 == 3) {
          x[i * dim + k] = x[(i - 2) * dim + k] + 0.1F * x[i * dim + k];
        }
      }
    }
    auto* halves = reinterpret_cast<uint16_t*>(page(index));
    std::transform(x.begin(), x.end(), halves, FloatToHalf);
  }
  KvCacheView view() {
    KvCacheView kv{.arena = bytes_.data(), .formats = formats_.data(), .layout = layout_};
    kv.mean_keys = means_.empty() ? nullptr : means_.data();
    kv.query_factors = factors_.empty() ? nullptr : factors_.data();
    if (bias_ != nullptr) {
      kv.key_bias = bias_->view();
    }
    return kv;
  }
  std::vector<std::byte>& bytes() { return bytes_; }
  std::vector<float>& factors() { return factors_; }

  std::vector<MoveResult> MoveOnCpu(const std::vector<PageMove>& moves) {
    const VectorQuantizer quantizer = FastQuantizer();
    std::vector<MoveResult> results;
    for (const PageMove& move : moves) {
      results.push_back(TranscodePage(move, view(), quantizer));
    }
    return results;
  }
  std::vector<MoveResult> MoveOnGrid(const std::vector<PageMove>& moves, GridOrder order = {}) {
    const int num_moves = static_cast<int>(moves.size());
    std::vector<uint64_t> workspace((MoveWorkspaceBytes(layout_, num_moves) + 7) / 8,
                                    0x0101010101010101U);
    std::vector<MoveResult> results(moves.size());
    RunMoves({.kv = view(),
              .tables = MakeMoveTables(layout_),
              .moves = moves.data(),
              .num_moves = num_moves,
              .workspace = reinterpret_cast<std::byte*>(workspace.data()),
              .results = results.data()},
             order);
    return results;
  }

 private:
  KvLayout layout_;
  std::vector<LayerFormat> formats_;
  uint32_t page_units_;
  std::vector<std::byte> bytes_;
  std::vector<float> means_;
  std::vector<float> factors_;
  std::unique_ptr<KeyBias> bias_;
};

void ExpectEqual(const std::vector<MoveResult>& got, const std::vector<MoveResult>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].outcome, want[i].outcome) << "move " << i;
    EXPECT_EQ(got[i].checksum, want[i].checksum) << "move " << i;
  }
}

// Moves by both, from the same bytes; the results of the CPU.
std::vector<MoveResult> MoveByBoth(Arena& arena, const std::vector<PageMove>& moves) {
  const std::vector<std::byte> before = arena.bytes();
  std::vector<MoveResult> want = arena.MoveOnCpu(moves);
  const std::vector<std::byte> wanted = arena.bytes();
  arena.bytes() = before;
  ExpectEqual(arena.MoveOnGrid(moves), want);
  EXPECT_TRUE(arena.bytes() == wanted) << "other bytes than the CPU's";
  arena.bytes() = wanted;
  return want;
}

#ifdef THERMOCLINE_THIN_TESTS
constexpr int kDims[] = {80, 128};  // sanitizers take their time
#else
constexpr int kDims[] = {64, 80, 128, 256};
#endif

std::string Name(Codec codec) {
  constexpr const char* kNames[] = {"native", "int8", "turbo3", "K4V3", "merged2", "mergedK3V2"};
  return kNames[static_cast<int>(codec)];
}

// Hot -> `first`, then on to `second`, elsewhere, and back to hot.
void CheckChain(const Shape& shape, Arena::Extras extras, Codec first, Codec second) {
  SCOPED_TRACE(Name(first) + " " + Name(second) + " head_dim " + std::to_string(shape.head_dim));
  Arena arena(shape, 5, extras);
  arena.SetTier(Tier::kWarm, {first});
  arena.SetTier(Tier::kCold, {second});
  arena.FillHot(0, 17);
  PageMove move{.from = arena.At(Tier::kHot, 0), .to = arena.At(Tier::kWarm, 1)};
  move.first_position = 3 * shape.page_tokens;
  const auto step = [&](PageEntry to) {
    const MoveResult result = MoveByBoth(arena, {move}).front();
    EXPECT_EQ(result.outcome, MoveResult::Outcome::kOk);
    move.from = move.to;
    move.to = to;
    move.checksum = result.checksum;
  };
  step(arena.At(Tier::kWarm, 2));
  step(arena.At(Tier::kCold, 3));
  if (IsMerged(first)) {
    return;  // cannot be decoded
  }
  step(arena.At(Tier::kHot, 4));
  if (!IsMerged(second)) {
    step(arena.At(Tier::kHot, 0));
    step(arena.At(Tier::kWarm, 1));
  }
}

TEST(PageMoves, EveryEdgeHasTheCpusBytes) {
  for (const int dim : kDims) {
    const Shape shape{1, 2, dim};
    for (const bool factors : {true, false}) {
      for (const Codec first : {Codec::kInt8, Codec::kTurbo3, Codec::kTurboK4V3}) {
        for (const Codec second : {Codec::kInt8, Codec::kTurbo3, Codec::kTurboK4V3, Codec::kMerged2,
                                   Codec::kMergedK3V2}) {
          if (first != second) {
            CheckChain(shape, {.factors = factors}, first, second);
          }
        }
      }
      for (const Codec merged : {Codec::kMerged2, Codec::kMergedK3V2}) {
        CheckChain(shape, {.factors = factors}, merged, merged);
      }
    }
  }
}

TEST(PageMoves, KeysWithABiasHaveTheCpusBytes) {
  for (const int dim : kDims) {
    for (const Codec second : {Codec::kTurbo3, Codec::kTurboK4V3}) {
      CheckChain({2, 1, dim}, {.factors = dim != 64, .bias = true}, Codec::kInt8, second);
    }
  }
}

TEST(PageMoves, HeadsThatFillNoPanelHaveTheCpusBytes) {
  for (const int dim : {4, 8, 20, 24, 96, 116}) {
    CheckChain({1, 1, dim}, {}, Codec::kInt8, Codec::kTurbo3);
    CheckChain({1, 1, dim}, {.means = false, .factors = false}, Codec::kTurboK4V3, Codec::kMerged2);
    CheckChain({1, 1, dim}, {.means = false}, Codec::kTurboK4V3, Codec::kMergedK3V2);
  }
}

TEST(PageMoves, SmallerPagesHaveTheCpusBytes) {
  for (const int page_tokens : {16, 32, 48}) {
    for (const int dim : {64, 80}) {
      const Shape shape{1, 2, dim, page_tokens};
      CheckChain(shape, {}, Codec::kInt8, Codec::kTurbo3);
      CheckChain(shape, {.factors = false, .bias = true}, Codec::kTurboK4V3, Codec::kInt8);
    }
  }
}

// Up to 32 moves of all kinds, over layers that differ in their codecs.
std::vector<PageMove> ManyMoves(Arena& arena, int num_moves) {
  arena.SetTier(Tier::kWarm, {Codec::kInt8});
  arena.SetTier(Tier::kCold, {Codec::kTurbo3, Codec::kInt8, Codec::kTurboK4V3});
  arena.SetTier(Tier::kArchive, {Codec::kMerged2, Codec::kInt8, Codec::kMergedK3V2});
  constexpr Tier kTargets[] = {Tier::kWarm, Tier::kCold, Tier::kArchive, Tier::kHot};
  std::vector<PageMove> moves;
  for (int i = 0; i < num_moves; ++i) {
    arena.FillHot(i, static_cast<uint64_t>(100 + i));
    moves.push_back({.page = static_cast<PageId>(i),
                     .from = arena.At(Tier::kHot, i),
                     .to = arena.At(kTargets[i % 4], num_moves + i)});
  }
  // What was warm goes on to other tiers in the same batch.
  std::vector<PageMove> warm;
  for (int i = 0; i < num_moves; i += 8) {
    warm.push_back(moves[static_cast<size_t>(i)]);
  }
  const std::vector<MoveResult> results = arena.MoveOnCpu(warm);
  for (size_t i = 0; i < warm.size(); ++i) {
    PageMove& move = moves[8 * i];
    move.from = warm[i].to;
    move.to = arena.At(i % 2 == 0 ? Tier::kCold : Tier::kArchive, static_cast<int>(8 * i));
    move.checksum = results[i].checksum;
  }
  return moves;
}

TEST(PageMoves, ManyAtOnceHaveTheCpusBytes) {
  for (const int num_moves : {1, 3, 32}) {
    Arena arena({3, 3, 64}, 2 * num_moves, {});
    const std::vector<PageMove> moves = ManyMoves(arena, num_moves);
    for (const MoveResult& result : MoveByBoth(arena, moves)) {
      EXPECT_EQ(result.outcome, MoveResult::Outcome::kOk);
    }
  }
}

TEST(PageMoves, LanesAndBlocksInAnyOrderGiveTheSameBytes) {
  Arena arena({3, 2, 80}, 18, {});
  const std::vector<PageMove> moves = ManyMoves(arena, 9);
  const std::vector<std::byte> before = arena.bytes();
  const std::vector<MoveResult> want = arena.MoveOnCpu(moves);
  const std::vector<std::byte> wanted = arena.bytes();
  for (const GridOrder& order : kGridOrders) {
    arena.bytes() = before;
    ExpectEqual(arena.MoveOnGrid(moves, order), want);
    EXPECT_TRUE(arena.bytes() == wanted);
  }
}

// Every page of a model has as many hashes as it has layers and heads: the hash of hashes is short,
// of some stripes, or of more than one block of XXH3.
TEST(PageMoves, ChecksumsOfManyBlocksAreTheCpus) {
  for (const Shape& shape : {Shape{1, 1, 8}, Shape{1, 2, 8}, Shape{1, 5, 8}, Shape{5, 6, 8},
                             Shape{31, 1, 8}, Shape{16, 9, 8}, Shape{43, 6, 8}}) {
    CheckChain(shape, {.factors = false}, Codec::kInt8, Codec::kTurbo3);
  }
}

TEST(PageMoves, ADamagedSourceIsCorruptAndItsNeighboursAreNot) {
  for (const Tier to : {Tier::kCold, Tier::kWarm, Tier::kArchive, Tier::kHot}) {
    Arena arena({3, 2, 64}, 8, {});
    std::vector<PageMove> moves = ManyMoves(arena, 4);
    std::vector<PageMove> cooling;
    for (int i = 0; i < 3; ++i) {
      arena.FillHot(i, static_cast<uint64_t>(i));
      cooling.push_back({.from = arena.At(Tier::kHot, i), .to = arena.At(Tier::kWarm, 4 + i)});
    }
    const std::vector<MoveResult> cooled = arena.MoveOnCpu(cooling);
    for (size_t i = 0; i < cooling.size(); ++i) {
      cooling[i].from = cooling[i].to;
      cooling[i].to = arena.At(to, static_cast<int>(i));
      cooling[i].checksum = cooled[i].checksum;
    }
    arena.page(5)[arena.view().format(2, Tier::kWarm).layer_offset + 8448 + 333] ^= std::byte{4};
    const std::vector<MoveResult> results = MoveByBoth(arena, cooling);
    EXPECT_EQ(results[0].outcome, MoveResult::Outcome::kOk);
    EXPECT_EQ(results[1].outcome, MoveResult::Outcome::kCorrupt);
    EXPECT_EQ(results[2].outcome, MoveResult::Outcome::kOk);
  }
}

// The CPU gives up at the first value that is not finite, so that other bytes may differ.
TEST(PageMoves, APageThatIsNotFiniteIsRefused) {
  const KvLayout layout{1, 2, 64, 64};
  for (const bool factors : {false, true}) {
    for (const Codec codec :
         {Codec::kInt8, Codec::kTurbo3, Codec::kTurboK4V3, Codec::kMerged2, Codec::kMergedK3V2}) {
      for (const uint16_t bad : {uint16_t{0x7c00}, uint16_t{0x7e01}}) {  // infinity, NaN
        for (const uint32_t part : {uint32_t{0}, NativeVOffset(layout)}) {
          Arena arena({1, 2, 64}, 4, {.factors = factors});
          arena.SetTier(Tier::kCold, {codec});
          arena.FillHot(0, 1);
          arena.FillHot(1, 2);
          std::memcpy(arena.page(1) + NativeHeadBytes(layout) + part + 2 * (64 * 63 + 40), &bad, 2);
          const std::vector<PageMove> moves = {
              {.from = arena.At(Tier::kHot, 0), .to = arena.At(Tier::kCold, 2)},
              {.from = arena.At(Tier::kHot, 1), .to = arena.At(Tier::kCold, 3)}};
          const std::vector<MoveResult> want = arena.MoveOnCpu(moves);
          EXPECT_EQ(want[1].outcome, MoveResult::Outcome::kNotFinite);
          ExpectEqual(arena.MoveOnGrid(moves), want);
        }
      }
    }
  }
}

// Sums whose order, and whose products' own rounding, decide codes: in the later half of a key
// neighbours cancel each other, and factors for them are so large that what was added up before
// loses most of its bits, unless sums have another order or products are contracted.
TEST(PageMoves, KeysThatCancelHaveTheCpusBytes) {
  for (const int dim : {64, 128}) {
    const auto size = static_cast<size_t>(dim);
    Arena arena({1, 1, dim}, 2, {.means = false});
    std::mt19937_64 random(6);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < size; ++i) {
      for (size_t j = 0; j < size; ++j) {
        const bool early = i < size / 2;
        float& factor = arena.factors()[i * size + j];
        factor = j == i ? 1.0F : j < i || !early ? 0.0F : 0.3F * normal(random);
        if (early && j >= size / 2) {  // equal for two neighbours, and no power of two
          const size_t neighbours = j / 2;
          factor = 1e5F * (1.1F + static_cast<float>(neighbours));
        }
      }
    }
    arena.FillHot(0, 9);
    auto* keys = reinterpret_cast<uint16_t*>(arena.page(0));
    for (size_t at = 0; at < 64 * size; at += 2) {
      if (at % size >= size / 2) {
        keys[at + 1] = keys[at] ^ 0x8000U;
      }
    }
    for (const Codec codec :
         {Codec::kTurbo3, Codec::kTurboK4V3, Codec::kMerged2, Codec::kMergedK3V2}) {
      arena.SetTier(Tier::kCold, {codec});
      MoveByBoth(arena, {{.from = arena.At(Tier::kHot, 0), .to = arena.At(Tier::kCold, 1)}});
    }
  }
}

// Tokens in pairs that are far from each other: the first dimensions say which pair it is. The two
// of every pair differ by the same numbers in another order, so which pairs are merged depends on
// how distances are rounded.
TEST(PageMoves, PairsThatAreEquallyNearAreMergedAsOnTheCpu) {
  constexpr size_t kDim = 64;
  constexpr size_t kFirst = 16;
  Arena arena({1, 1, kDim}, 2, {.means = false, .factors = false});
  arena.SetTier(Tier::kArchive, {Codec::kMerged2});
  arena.FillHot(0, 10);
  std::mt19937_64 random(8);
  const std::vector<float> one = Normal(kDim, 1.0F, 9);
  const std::vector<float> other = Normal(kDim, 0.01F, 10);  // differences have many bits
  std::vector<size_t> order(kDim - kFirst);
  std::iota(order.begin(), order.end(), kFirst);
  auto* keys = reinterpret_cast<uint16_t*>(arena.page(0));
  for (size_t pair = 0; pair < 32; ++pair, keys += 2 * kDim) {
    for (size_t i = 0; i < kFirst; ++i) {
      keys[i] = keys[kDim + i] = FloatToHalf(random() % 2 == 0 ? 30.0F : -30.0F);
    }
    std::shuffle(order.begin(), order.end(), random);
    for (size_t i = kFirst; i < kDim; ++i) {
      keys[i] = FloatToHalf(one[order[i - kFirst]]);
      keys[kDim + i] = FloatToHalf(other[order[i - kFirst]]);
    }
  }
  MoveByBoth(arena, {{.from = arena.At(Tier::kHot, 0), .to = arena.At(Tier::kArchive, 1)}});
}

// Keys that are all one another, and distances that overflow: ties and no distances at all.
TEST(PageMoves, PagesWithoutDistancesAreMergedAsOnTheCpu) {
  for (const bool factors : {false, true}) {
    for (const float size : {0.0F, 1.0F, 60000.0F}) {
      Arena arena({1, 1, 64}, 2, {.means = false, .factors = factors});
      arena.SetTier(Tier::kArchive, {Codec::kMerged2});
      auto* halves = reinterpret_cast<uint16_t*>(arena.page(0));
      for (int i = 0; i < 2 * 64 * 64; ++i) {
        const float sign = i % 3 == 0 || size == 1.0F ? 1.0F : -1.0F;
        halves[i] = FloatToHalf(sign * size);
      }
      MoveByBoth(arena, {{.from = arena.At(Tier::kHot, 0), .to = arena.At(Tier::kArchive, 1)}});
    }
  }
}

}  // namespace
}  // namespace thermocline
