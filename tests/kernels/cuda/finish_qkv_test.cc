#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cuda/rows/host_row_launches.h"
#include "kernels/quant/rotation.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/cuda/grid_orders.h"
#include "tests/kernels/cuda/no_stream.h"
#include "tests/kernels/cuda/row_rig.h"
#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int num_pairs;
  RopeStyle style;
  bool has_bias = false;
  int page_tokens = 64;
};
constexpr Shape kShapes[] = {{1, 1, 2, 1, RopeStyle::kInterleaved},
                             {3, 1, 64, 32, RopeStyle::kInterleaved, true},
                             {9, 3, 64, 32, RopeStyle::kHalves},
                             {4, 2, 80, 40, RopeStyle::kHalves, true},
                             {2, 2, 96, 24, RopeStyle::kInterleaved, false, 16},
                             {4, 1, 128, 64, RopeStyle::kHalves, true},
                             {2, 1, 256, 128, RopeStyle::kHalves, false, 16}};

// Three sequences: a chunk over a page's edge, one token, and a page's last token.
class Step {
 public:
  explicit Step(const Shape& of)
      : shape(of),
        row_width((of.num_heads + 2 * of.num_kv_heads) * of.head_dim),
        positions{of.page_tokens - 2, of.page_tokens - 1, of.page_tokens, 0,
                  2 * of.page_tokens - 1},
        layout{2, of.num_kv_heads, of.head_dim, of.page_tokens} {
    const uint32_t head_bytes = NativeHeadBytes(layout);
    const uint32_t layer_bytes = head_bytes * static_cast<uint32_t>(of.num_kv_heads);
    formats.resize(2 * kNumTiers);
    formats[kNumTiers] = {Codec::kNative, layer_bytes, head_bytes};
    formats[0] = {Codec::kNative, 0, head_bytes};
    units = static_cast<uint32_t>((2 * layer_bytes + kArenaUnitBytes - 1) / kArenaUnitBytes);
    for (uint32_t i = 0; i < 5; ++i) {
      map.emplace_back(Tier::kHot, (4 - i) * units);
    }
    token_pages = {map[3], map[3], map[0], map[2], map[1]};
    const auto width = static_cast<size_t>(row_width);
    qkv = RandomFloats(positions.size() * width, 1, 2.0F);
    bias = RandomFloats(width, 2, 30.0F);
    cos_sin = RandomFloats(positions.size() * static_cast<size_t>(2 * of.num_pairs), 3);
    signs = RotationSigns(of.head_dim, 4);
  }

  std::vector<std::byte> NewArena() const {
    return std::vector<std::byte>(5 * units * kArenaUnitBytes, std::byte{0x5a});
  }
  KvCacheView View(std::vector<std::byte>& arena) const {
    return {
        .arena = arena.data(), .page_map = map.data(), .formats = formats.data(), .layout = layout};
  }
  BatchView Batch() const {
    return {.num_tokens = 5,
            .num_sequences = 3,
            .sequence_starts = starts,
            .positions = positions.data(),
            .page_starts = page_starts,
            .page_ids = ids};
  }
  QkvLaunch Launch(std::vector<float>& x, std::vector<std::byte>& arena) const {
    return {.qkv = x.data(),
            .row_width = row_width,
            .num_tokens = 5,
            .num_heads = shape.num_heads,
            .num_kv_heads = shape.num_kv_heads,
            .head_dim = shape.head_dim,
            .bias = shape.has_bias ? bias.data() : nullptr,
            .cos_sin = cos_sin.data(),
            .num_pairs = shape.num_pairs,
            .style = shape.style,
            .signs = signs.data(),
            .arena = arena.data(),
            .format = formats[kNumTiers],
            .page_tokens = shape.page_tokens,
            .token_pages = token_pages.data(),
            .positions = positions.data()};
  }
  QkvParams Params() {
    return {.layer = 1,
            .num_heads = shape.num_heads,
            .bias = shape.has_bias ? Tensor(bias.data(), {row_width}) : Tensor(),
            .cos_sin = Tensor(cos_sin.data(), {5, shape.num_pairs, 2}),
            .style = shape.style,
            .signs = Tensor(signs.data(), {shape.head_dim})};
  }
  Tensor Qkv(std::vector<float>& x) const { return {x.data(), {5, row_width}}; }

  Shape shape;
  int64_t row_width;
  std::vector<int32_t> positions;
  KvLayout layout;
  std::vector<LayerFormat> formats;
  uint32_t units = 0;
  std::vector<PageEntry> map;
  std::vector<float> qkv, bias, cos_sin, signs;
  const int32_t starts[4] = {0, 3, 4, 5};
  const int32_t page_starts[4] = {0, 2, 3, 5};
  const PageId ids[5] = {3, 0, 2, 4, 1};
  std::vector<PageEntry> token_pages;
};

TEST(FinishQkv, HasTheReferencesBits) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(std::to_string(shape.head_dim) + ' ' + std::to_string(shape.num_heads));
    Step step(shape);
    std::vector<float> wanted = step.qkv;
    std::vector<std::byte> wanted_arena = step.NewArena();
    ops.FinishQkv(step.Qkv(wanted), step.Params(), step.Batch(), step.View(wanted_arena), stream);
    for (const GridOrder& order : kGridOrders) {
      std::vector<float> x = step.qkv;
      std::vector<std::byte> arena = step.NewArena();
      RunRows(step.Launch(x, arena), order);
      EXPECT_TRUE(SameBits(wanted_arena, arena));
      for (int64_t i = 0; i < 5 * step.row_width; ++i) {
        if (i % step.row_width < int64_t{shape.num_heads} * shape.head_dim) {
          ASSERT_EQ(x[static_cast<size_t>(i)], wanted[static_cast<size_t>(i)]) << i;
        }
      }
    }
  }
}

TEST(FinishQkv, RotatesAndTurnsAlone) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const Shape& shape : kShapes) {
    Step step(shape);
    const int num_all = shape.num_heads + 2 * shape.num_kv_heads;
    const Tensor signs(step.signs.data(), {shape.head_dim});
    QkvLaunch launch{.row_width = step.row_width,
                     .num_tokens = 5,
                     .num_heads = num_all,
                     .head_dim = shape.head_dim,
                     .signs = step.signs.data()};
    for (const bool back : {false, true}) {
      std::vector<float> wanted = step.qkv;
      std::vector<float> x = step.qkv;
      ops.Rotate(step.Qkv(wanted), num_all, signs, back ? Rotation::kBack : Rotation::kForward,
                 stream);
      launch.qkv = x.data();
      launch.rotates_back = back;
      RunRows(launch, {GridOrder::Kind::kReverse});
      EXPECT_EQ(wanted, x);
    }
    std::vector<float> wanted = step.qkv;
    std::vector<float> x = step.qkv;
    ops.Rope(step.Qkv(wanted), shape.num_heads, shape.head_dim, step.Params().cos_sin, shape.style,
             stream);
    launch = {.qkv = x.data(),
              .row_width = step.row_width,
              .num_tokens = 5,
              .num_heads = shape.num_heads,
              .head_dim = shape.head_dim,
              .cos_sin = step.cos_sin.data(),
              .num_pairs = shape.num_pairs,
              .style = shape.style};
    RunRows(launch, {});
    EXPECT_EQ(wanted, x);
  }
}

TEST(FinishQkv, ATokenIsTheSameAloneAndPaddingIsWrittenNowhere) {
  const Step step(kShapes[3]);
  std::vector<float> all = step.qkv;
  std::vector<std::byte> arena = step.NewArena();
  RunRows(step.Launch(all, arena), {});
  std::vector<float> x = step.qkv;
  std::vector<std::byte> apart = step.NewArena();
  QkvLaunch launch = step.Launch(x, apart);
  for (int token = 0; token < 5; ++token) {
    std::vector<PageEntry> pages(5, PageEntry(Tier::kBacked, 0));
    pages[static_cast<size_t>(token)] = step.token_pages[static_cast<size_t>(token)];
    x = step.qkv;
    launch.token_pages = pages.data();
    RunRows(launch, {GridOrder::Kind::kRandom, 3});
    EXPECT_TRUE(SameBits(all, x));
  }
  EXPECT_TRUE(SameBits(arena, apart));
}

TEST(FoldEnergies, HasTheReferencesBits) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const int num_pages : {0, 1, 127, 128, 129, 300}) {
    for (const int num_layers : {1, 3}) {
      for (const int num_heads : {1, 5}) {
        const auto count = static_cast<size_t>(num_layers * num_pages * num_heads);
        std::vector<float> energies = RandomFloats(count, 5);
        for (float& energy : energies) {
          energy = std::abs(energy);
        }
        std::vector<float> wanted(static_cast<size_t>(2 * num_pages));
        ops.FoldEnergies(Tensor(energies.data(), {num_layers, num_pages, num_heads}),
                         Tensor(wanted.data(), {num_pages, 2}), stream);
        for (const GridOrder& order : kGridOrders) {
          std::vector<float> heat(wanted.size(), NAN);
          RunRows(FoldLaunch{energies.data(), num_layers, num_pages, num_heads, heat.data()},
                  order);
          EXPECT_EQ(wanted, heat);
        }
      }
    }
  }
}

}  // namespace
}  // namespace thermocline
