#include "kernels/cuda/simt/host_thread.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/core/half.h"
#include "tests/kernels/cuda/grid_orders.h"

namespace thermocline {
namespace {

// One warp in every order of lanes.
void RunWarp(const std::function<void(HostThread&)>& kernel) {
  for (const GridOrder order : kGridOrders) {
    HostGrid(1, 32, 1024, order).Run(kernel);
  }
}

TEST(HostThread, ShufflesOfEveryTypeGiveTheOtherLanesValue) {
  RunWarp([](HostThread& x) {
    const int lane = x.lane();
    for (const int mask : {1, 2, 4, 8, 16, 31}) {
      EXPECT_EQ(x.ShuffleXor(1.5F * static_cast<float>(lane), mask),
                1.5F * static_cast<float>(lane ^ mask));
      EXPECT_EQ(x.ShuffleXor(uint64_t(lane) << 40, mask), uint64_t(lane ^ mask) << 40);
    }
    EXPECT_EQ(x.ShuffleDown(lane, 4), lane < 28 ? lane + 4 : lane);
    EXPECT_EQ(x.ShuffleDown(-int64_t{1} << lane, 1), -int64_t{1} << std::min(lane + 1, 31));
    EXPECT_EQ(x.Broadcast(static_cast<float>(lane), 7), 7.0F);
    EXPECT_EQ(x.Broadcast(uint32_t(lane) * 3, 31 - lane), uint32_t(31 - lane) * 3);
  });
}

TEST(HostThread, BallotHasABitOfEachLane) {
  RunWarp([](HostThread& x) {
    EXPECT_EQ(x.Ballot(x.lane() % 3 == 0), 0x49249249U);
    EXPECT_EQ(x.Ballot(true), ~0U);
    EXPECT_EQ(x.Ballot(false), 0U);
  });
}

// PTX ISA, "Matrix fragments for mma.m16n8k32": groupID = lane / 4, threadID_in_group = lane % 4.
TEST(HostThread, ProductsOfBytesFollowTheFragmentMap) {
  std::mt19937 random(1);
  uint8_t a[16][32];
  int8_t b[32][8];
  std::generate_n(&a[0][0], sizeof(a), [&] { return static_cast<uint8_t>(random()); });
  std::generate_n(&b[0][0], sizeof(b), [&] { return static_cast<int8_t>(random()); });
  RunWarp([&](HostThread& x) {
    const int group = x.lane() / 4;
    const int in_group = x.lane() % 4;
    uint8_t a_bytes[16];
    int8_t b_bytes[8];
    for (int i = 0; i < 16; ++i) {
      const int row = (i >= 4 && i < 8) || i >= 12 ? group + 8 : group;
      a_bytes[i] = a[row][in_group * 4 + i % 4 + (i >= 8 ? 16 : 0)];
    }
    for (int i = 0; i < 8; ++i) {
      b_bytes[i] = b[in_group * 4 + i % 4 + (i >= 4 ? 16 : 0)][group];
    }
    uint32_t a_of[4];
    uint32_t b_of[2];
    std::memcpy(a_of, a_bytes, sizeof(a_of));
    std::memcpy(b_of, b_bytes, sizeof(b_of));
    int32_t with_sign[4] = {1, 2, 3, 4};
    int32_t without[4] = {};
    x.Multiply<int8_t>(with_sign, a_of, b_of[0], b_of[1]);
    x.Multiply<uint8_t>(without, a_of, b_of[0], b_of[1]);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? group : group + 8;
      const int column = in_group * 2 + (i & 1);
      int32_t sum = 0;
      int32_t sum_with_sign = i + 1;
      for (int k = 0; k < 32; ++k) {
        sum += a[row][k] * b[k][column];
        sum_with_sign += static_cast<int8_t>(a[row][k]) * b[k][column];
      }
      EXPECT_EQ(without[i], sum);
      EXPECT_EQ(with_sign[i], sum_with_sign);
    }
  });
}

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".
TEST(HostThread, ProductsOfHalvesFollowTheFragmentMap) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  uint16_t a[16][16];
  uint16_t b[16][8];
  std::generate_n(&a[0][0], 16 * 16, [&] { return FloatToHalf(normal(random)); });
  std::generate_n(&b[0][0], 16 * 8, [&] { return FloatToHalf(normal(random)); });
  RunWarp([&](HostThread& x) {
    const int group = x.lane() / 4;
    const int in_group = x.lane() % 4;
    uint16_t a_halves[8];
    uint16_t b_halves[4];
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      a_halves[i] = a[row][in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)];
    }
    for (int i = 0; i < 4; ++i) {
      b_halves[i] = b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group];
    }
    uint32_t a_of[4];
    uint32_t b_of[2];
    std::memcpy(a_of, a_halves, sizeof(a_of));
    std::memcpy(b_of, b_halves, sizeof(b_of));
    float sums[4] = {1, 2, 3, 4};
    x.MultiplyHalves(sums, a_of, b_of[0], b_of[1]);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? group : group + 8;
      const int column = in_group * 2 + (i & 1);
      double sum = i + 1;
      for (int k = 0; k < 16; ++k) {
        sum += double{HalfToFloat(a[row][k])} * double{HalfToFloat(b[k][column])};
      }
      EXPECT_NEAR(sums[i], sum, 1e-6);
    }
  });
}

TEST(HostThread, PermuteTakesBytesAndSpreadsSigns) {
  EXPECT_EQ(HostThread::Permute(0x33221100, 0x77665544, 0x7531), 0x77553311U);
  EXPECT_EQ(HostThread::Permute(0x33228100, 0x77665544, 0x98f0), 0xff000000U);
}

TEST(HostThread, RoundsToNearestEven) {
  EXPECT_EQ(HostThread::RoundToWhole(2.5F), 2.0F);
  EXPECT_EQ(HostThread::RoundToWhole(-3.5F), -4.0F);
  EXPECT_EQ(HostThread::HalfOf(1.0F + 0x1p-11F), 0x3c00U);
  EXPECT_EQ(HostThread::HalfOf(1.0F + 0x3p-11F), 0x3c02U);
  EXPECT_EQ(HostThread::HalfBits(0x3c01), 1.0F + 0x1p-10F);
  EXPECT_EQ(HostThread::DivideExactly(1.0F, 3.0F), 1.0F / 3.0F);
  EXPECT_EQ(HostThread::Fma(1.0F + 0x1p-20F, 1.0F - 0x1p-20F, -1.0F), -0x1p-40F);
  EXPECT_EQ(HostThread::Add(HostThread::Multiply(1.0F + 0x1p-20F, 1.0F - 0x1p-20F), -1.0F), 0.0F);
}

TEST(HostThread, BarrierOfABlockOrdersItsWarps) {
  for (const GridOrder order : kGridOrders) {
    std::vector<int> sums(3 * 64);
    HostGrid(3, 64, 64 * sizeof(int), order).Run([&](HostThread& x) {
      int* shared = x.shared<int>(0);
      for (int round = 0; round < 3; ++round) {
        shared[x.thread()] = x.thread() + round;
        x.SyncThreads();
        sums[static_cast<size_t>(x.block() * 64 + x.thread())] += shared[63 - x.thread()];
        x.SyncThreads();
      }
    });
    for (int i = 0; i < 3 * 64; ++i) {
      EXPECT_EQ(sums[static_cast<size_t>(i)], 3 * (63 - i % 64) + 3);
    }
  }
}

TEST(HostThread, ClaimsOfAllBlocksAreDifferent) {
  for (const GridOrder order : kGridOrders) {
    uint32_t counter = 0;
    uint64_t least = ~uint64_t{0};
    uint32_t greatest = 0;
    std::vector<uint32_t> claimed;
    HostGrid(5, 32, 16, order).Run([&](HostThread& x) {
      uint32_t claim = 0;
      if (x.lane() == 0) {
        claim = x.AtomicAdd(&counter, 1);
        claimed.push_back(claim);
      }
      claim = x.Broadcast(claim, 0);
      x.AtomicMin(&least, uint64_t{claim} * 100 + static_cast<uint64_t>(x.lane()));
      x.AtomicMax(&greatest, claim);
    });
    std::sort(claimed.begin(), claimed.end());
    EXPECT_EQ(claimed, (std::vector<uint32_t>{0, 1, 2, 3, 4}));
    EXPECT_EQ(least, 0U);
    EXPECT_EQ(greatest, 4U);
  }
}

// Two stages of 512 bytes: a run of four parts each, two bytes of `from` between them.
struct Rings {
  std::vector<std::byte> from = std::vector<std::byte>(size_t{64} << 10);
  Rings() {
    for (size_t i = 0; i < from.size(); ++i) {
      from[i] = static_cast<std::byte>(i / 16);
    }
  }
  void Begin(HostThread& x, int stage, int round) const {
    x.BeginStage(stage, 512);
    x.CopyParts(stage, 4, x.shared<std::byte>(0) + stage * 512, 128, from.data() + round * 1024,
                256, 128);
    x.CommitStage(stage);
  }
  static uint32_t Read(HostThread& x, int stage) {
    return x.Load16(x.shared<std::byte>(0) + stage * 512 + 16 * x.lane()).w[3] & 0xffU;
  }
  static uint32_t Want(int lane, int round) {
    return static_cast<uint32_t>(round * 64 + lane / 8 * 16 + lane % 8) & 0xffU;
  }
};

TEST(HostThread, PartsArriveWhenTheirStageIsWaitedFor) {
  const Rings rings;
  RunWarp([&](HostThread& x) {
    x.InitCopies(nullptr, 2);
    rings.Begin(x, 0, 0);
    rings.Begin(x, 1, 1);
    for (int round = 0; round < 6; ++round) {
      x.EndCopy<1>(round % 2);
      EXPECT_EQ(Rings::Read(x, round % 2), Rings::Want(x.lane(), round));
      x.SyncWarp();
      if (round + 2 < 6) {
        rings.Begin(x, round % 2, round + 2);
      } else {
        x.NoCopy();
      }
    }
  });
}

TEST(HostThread, WordsAreStoredAndLoaded) {
  RunWarp([](HostThread& x) {
    std::byte* at = x.shared<std::byte>(0) + 16 * x.lane();
    x.Store16(at, {{1, 2, 3, static_cast<uint32_t>(x.lane())}});
    x.Store8(at, {{7, 8}});
    x.SyncWarp();
    const std::byte* next = x.shared<std::byte>(0) + 16 * (x.lane() ^ 1);
    EXPECT_EQ(x.Load16(next).w[3], static_cast<uint32_t>(x.lane() ^ 1));
    EXPECT_EQ(x.Load8(next).w[1], 8U);
    EXPECT_EQ(x.Load4(next + 8), 3U);
  });
}

// What the context says of a mistake, in every order of lanes.
void ExpectNamed(const std::function<void(HostThread&)>& kernel, const char* mistake) {
  for (const GridOrder order : kGridOrders) {
    EXPECT_DEATH(HostGrid(2, 64, 2048, order).Run(kernel), mistake);
  }
}

TEST(HostThreadDeathTest, NoWaitForACopyIsNamed) {
  const Rings rings;
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 1);
        rings.Begin(x, 0, 0);
        Rings::Read(x, 0);
      },
      "a stage is read whose copy was not waited for");
}

TEST(HostThreadDeathTest, AWaitTooFewIsNamed) {
  const Rings rings;
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 2);
        rings.Begin(x, 0, 0);
        x.EndCopy<1>(0);
      },
      "a wait is a copy too few");
}

TEST(HostThreadDeathTest, AWaitForACopyNeverBegunIsNamed) {
  const Rings rings;
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 2);
        rings.Begin(x, 0, 0);
        x.NoCopy();
        x.EndCopy<1>(0);
        x.EndCopy<0>(1);
      },
      "a copy that was never begun is waited for");
}

TEST(HostThreadDeathTest, AShuffleThatLanesSkipIsNamed) {
  ExpectNamed(
      [](HostThread& x) {
        if (x.lane() != 5) {
          x.ShuffleXor(1.0F, 1);
        }
      },
      "lanes diverge.*ShuffleXor.*is not reached by lanes 5;");
  ExpectNamed(
      [](HostThread& x) {
        if (x.lane() % 2 == 0) {  // NOLINT(bugprone-branch-clone): two places that call it
          x.ShuffleXor(1.0F, 2);
        } else {
          x.ShuffleXor(1.0F, 2);
        }
      },
      "lanes diverge");
}

TEST(HostThreadDeathTest, AStageBegunAnewBeforeItWasReadIsNamed) {
  const Rings rings;
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 1);
        rings.Begin(x, 0, 0);
        x.EndCopy<0>(0);
        Rings::Read(x, 0);
        rings.Begin(x, 0, 1);  // no SyncWarp behind the read
        x.EndCopy<0>(0);
      },
      "a stage is begun anew before this lane has read it");
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 1);
        rings.Begin(x, 0, 0);
        rings.Begin(x, 0, 1);
      },
      "a stage is begun anew before its copy was waited for");
}

TEST(HostThreadDeathTest, ACopyNeverEndedIsNamed) {
  const Rings rings;
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 1);
        rings.Begin(x, 0, 0);
      },
      "was begun and never ended");
}

TEST(HostThreadDeathTest, PartsThatDoNotAddUpAreNamed) {
  const Rings rings;
  ExpectNamed(
      [&](HostThread& x) {
        x.InitCopies(nullptr, 1);
        x.BeginStage(0, 64);
        x.CopyParts(0, 1, x.shared<std::byte>(0), 0, rings.from.data(), 0, 32);
        x.CommitStage(0);
      },
      "do not add up");
}

TEST(HostThreadDeathTest, ABarrierThatThreadsSkipIsNamed) {
  ExpectNamed(
      [](HostThread& x) {
        if (x.warp() == 0) {
          x.SyncThreads();
        }
      },
      "SyncThreads of block . is reached by 32 threads of 64");
}

TEST(HostThreadDeathTest, AccessesThatAGpuRefusesAreNamed) {
  ExpectNamed([](HostThread& x) { x.Load16(x.shared<std::byte>(8)); }, "not aligned");
  ExpectNamed([](HostThread& x) { x.Load8(x.shared<std::byte>(2048)); }, "lies outside it");
}

}  // namespace
}  // namespace thermocline
