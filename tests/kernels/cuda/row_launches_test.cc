#include "kernels/cuda/rows/row_launches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/core/half.h"
#include "kernels/cuda/rows/host_row_launches.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/cuda/grid_orders.h"
#include "tests/kernels/cuda/no_stream.h"
#include "tests/kernels/cuda/row_rig.h"
#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

constexpr int kDims[] = {1, 31, 257, 1024, 1025};
constexpr int kMostRows = 3;
constexpr float kUnit = 0x1p-24F;  // half of the last place of 1

size_t Size(int rows, int dim) { return static_cast<size_t>(rows) * static_cast<size_t>(dim); }

// The results of `run(out, order)` for every order are the same bits, and not what was there.
template <typename Run>
std::vector<float> InAllOrders(size_t count, Run run) {
  std::vector<float> first;
  for (const GridOrder& order : kGridOrders) {
    std::vector<float> out(count, NAN);
    run(out.data(), order);
    if (first.empty()) {
      first = out;
    }
    EXPECT_TRUE(SameBits(first, out));
  }
  return first;
}

std::vector<uint16_t> AllHalves() {
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) {
    halves[i] = static_cast<uint16_t>(i);
  }
  return halves;
}

TEST(RowLaunches, EmbedGivesTheTablesNumbers) {
  const std::vector<uint16_t> table = AllHalves();  // among them infinities and subnormals
  for (const bool is_bfloat16 : {false, true}) {
    for (const int dim : {1, 64, 1025}) {
      const int last = (1 << 16) / dim - 1;
      const std::vector<int32_t> rows = {last, 0, last / 2, last};
      const std::vector<float> out =
          InAllOrders(Size(4, dim), [&](float* to, const GridOrder& order) {
            RunRows(EmbedLaunch{table.data(), is_bfloat16, rows.data(), 4, dim, to}, order);
          });
      for (size_t i = 0; i < out.size(); ++i) {
        const auto row = static_cast<size_t>(rows[i / static_cast<size_t>(dim)]);
        const uint16_t value = table[row * static_cast<size_t>(dim) + i % static_cast<size_t>(dim)];
        const float wanted = is_bfloat16 ? BFloat16ToFloat(value) : HalfToFloat(value);
        ASSERT_TRUE(out[i] == wanted || (std::isnan(out[i]) && std::isnan(wanted))) << i;
      }
    }
  }
}

TEST(RowLaunches, GatherCopiesRows) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const int dim : kDims) {
    std::vector<float> x = RandomFloats(Size(kMostRows, dim), 1);
    const std::vector<int32_t> rows = {2, 0, 0, 1};
    const std::vector<float> out =
        InAllOrders(Size(4, dim), [&](float* to, const GridOrder& order) {
          RunRows(GatherLaunch{x.data(), rows.data(), 4, dim, to}, order);
        });
    std::vector<float> wanted(out.size());
    ops.GatherRows(Tensor(x.data(), {kMostRows, dim}), rows, Tensor(wanted.data(), {4, dim}),
                   stream);
    EXPECT_TRUE(SameBits(wanted, out)) << dim;
  }
}

TEST(RowLaunches, NormIsTheReferences) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const int dim : kDims) {
    std::vector<float> x = RandomFloats(Size(kMostRows, dim), 2, 3.0F);
    std::fill_n(x.begin(), dim, 0.0F);
    std::vector<float> gain = RandomFloats(static_cast<size_t>(dim), 3);
    const std::vector<float> y = InAllOrders(x.size(), [&](float* to, const GridOrder& order) {
      RunRows(NormLaunch{x.data(), gain.data(), 1e-5F, kMostRows, dim, to}, order);
    });
    std::vector<float> wanted(x.size());
    ops.RmsNorm(Tensor(x.data(), {kMostRows, dim}), Tensor(gain.data(), {dim}), 1e-5F,
                Tensor(wanted.data(), {kMostRows, dim}), stream);
    // What both sums may be off, of which a root takes half, and what follows them.
    const int num_roundings = dim / 16 + dim / 256 + 24;
    const float bound = static_cast<float>(num_roundings) * kUnit;
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_LE(std::abs(y[i] - wanted[i]), bound * std::abs(wanted[i])) << dim << ' ' << i;
    }
  }
}

TEST(RowLaunches, NormOfARowIsThatOfTheRowAlone) {
  for (const int dim : {1, 576, 1025}) {
    const std::vector<float> x = RandomFloats(Size(kMostRows, dim), 4);
    const std::vector<float> gain = RandomFloats(static_cast<size_t>(dim), 5);
    std::vector<float> all = x;  // in place
    RunRows(NormLaunch{all.data(), gain.data(), 1e-6F, kMostRows, dim, all.data()}, {});
    for (int row = 0; row < kMostRows; ++row) {
      const auto begin = static_cast<ptrdiff_t>(Size(row, dim));
      const std::vector<float> alone(x.begin() + begin, x.begin() + begin + dim);
      std::vector<float> y(alone.size());
      RunRows(NormLaunch{alone.data(), gain.data(), 1e-6F, 1, dim, y.data()}, {});
      EXPECT_TRUE(SameBits(y, {all.begin() + begin, all.begin() + begin + dim}));
    }
  }
}

TEST(RowLaunches, BiasHasTheReferencesBits) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const int dim : kDims) {
    std::vector<float> x = RandomFloats(Size(kMostRows, dim), 6);
    std::vector<float> bias = RandomFloats(static_cast<size_t>(dim), 7, 9.0F);
    const std::vector<float> y = InAllOrders(x.size(), [&](float* to, const GridOrder& order) {
      std::copy(x.begin(), x.end(), to);
      RunRows(BiasLaunch{to, bias.data(), kMostRows, dim}, order);
    });
    ops.AddBias(Tensor(x.data(), {kMostRows, dim}), Tensor(bias.data(), {dim}), stream);
    EXPECT_TRUE(SameBits(x, y));
  }
}

TEST(RowLaunches, GateIsTheReferences) {
  ThreadPool pool(1);
  const ReferenceOps ops(pool);
  NoStream stream;
  for (const bool is_gelu : {false, true}) {
    for (const int dim : kDims) {
      std::vector<float> x = RandomFloats(2 * Size(kMostRows, dim), 8, 8.0F);
      const std::vector<float> out =
          InAllOrders(Size(kMostRows, dim), [&](float* to, const GridOrder& order) {
            RunRows(GateLaunch{x.data(), is_gelu, kMostRows, dim, to}, order);
          });
      std::vector<float> wanted(out.size());
      ops.GatedActivation(Tensor(x.data(), {kMostRows, 2 * dim}),
                          is_gelu ? Activation::kGeluTanh : Activation::kSilu,
                          Tensor(wanted.data(), {kMostRows, dim}), stream);
      for (size_t i = 0; i < out.size(); ++i) {
        // A power up to 87 has an error of as many units, and so has its exponential; below that
        // the reference is less than the smallest normal number times x.
        ASSERT_LE(std::abs(out[i] - wanted[i]), 200 * kUnit * std::abs(wanted[i]) + 1e-33F)
            << dim << ' ' << i;
      }
    }
  }
}

TEST(RowLaunches, GateOfHugeAndMissingNumbers) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {0.0F, -0.0F, 1e30F, -1e30F, -90.0F, kInfinity, NAN};
  const auto dim = static_cast<int>(gate.size());
  std::vector<float> x = gate;
  x.resize(2 * gate.size(), 2.0F);
  for (const bool is_gelu : {false, true}) {
    std::vector<float> out(gate.size());
    RunRows(GateLaunch{x.data(), is_gelu, 1, dim, out.data()}, {});
    EXPECT_EQ(out[0], 0.0F);
    EXPECT_EQ(out[1], 0.0F);
    EXPECT_EQ(out[2], 2e30F);
    EXPECT_TRUE(out[3] == 0.0F || (is_gelu && std::isnan(out[3])));  // its cube is infinite
    EXPECT_NEAR(out[4], 0.0F, 1e-30F);
    EXPECT_EQ(out[5], kInfinity);
    EXPECT_TRUE(std::isnan(out[6]));
  }
}

TEST(RowLaunches, NoRowsAreNoLaunch) {
  RunRows(EmbedLaunch{.dim = 8}, {});
  RunRows(GatherLaunch{.dim = 8}, {});
  RunRows(NormLaunch{.dim = 8}, {});
  RunRows(BiasLaunch{.dim = 8}, {});
  RunRows(GateLaunch{.dim = 8}, {});
}

}  // namespace
}  // namespace thermocline
