#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/code_levels.cuh"
#include "kernels/cuda/attention/shape.h"

namespace thermocline {

// Products of queries with coded keys and of weights with coded values, from a block's own bytes.
// A word of a panel holds codes of one panel lane, which is also what one lane of a warp gives to
// mma.m16n8k32. Which token is which column of the scores, and which code which step of a sum, is
// free, and so chosen that lanes exchange nothing between K and V (the maps are in docs/cuda.md).
// Products are exact sums of integers: their order changes nothing.
//
// kValueBits decides the shape: 8: half a page, 32 tokens; 3: a page; 2: the 48 rows of a merged
// block.
template <typename Thread, int kDim, bool kPadded, int kKeyBits, int kValueBits>
class CodedOperands {
 public:
  static constexpr int kRows = kValueBits == 2 ? 48 : 64;            // of a block
  static constexpr int kProducts = kValueBits == 8 ? 4 : kRows / 8;  // of eight columns each
  static constexpr int kWide = kValueBits == 2 ? 2 : 4;  // products whose tokens are neighbours
  static constexpr int kWeightSteps = kValueBits == 8 ? 1 : 2;

  // Keys of 4 bits: eight levels are not nearly whole numbers of one step, and scores see it.
  static constexpr int kRestShift = kKeyBits == 4 ? 7 : 0;

  // Which token of the chunk is column c of product j.
  HD static constexpr int TokenOf(int j, int c) {
    if (kValueBits == 8) {
      return 4 * c + j;
    }
    if (kValueBits == 2) {
      return 16 * (j / 2) + 4 * (c / 2) + 2 * (c % 2) + j % 2;
    }
    return 32 * (c / 4) + 16 * (c % 2) + 8 * (j / 4) + 4 * (c / 2 % 2) + j % 4;
  }

  HD CodedOperands(Thread& thread, const LevelBytes (&levels)[3], int head_dim)
      : x_(thread),
        levels_(levels),
        head_dim_(kPadded ? head_dim : kDim),
        g_(thread.lane() / 4),
        t_(thread.lane() % 4) {}

  HD BlockParts parts() const { return BlockPartsOf(kKeyBits, kValueBits, kRows, head_dim_); }

  // sums[j]: of row g, columns 2 t and 2 t + 1 of product j: high bytes, then low; in steps that
  // kRestShift makes smaller.
  HD void Score(const std::byte* codes, const std::byte* queries,
                int32_t (&sums)[kProducts][4]) const {
#pragma unroll
    for (int j = 0; j < kProducts; j += kWide) {
      const int token = TokenOf(j, g_);
      const std::byte* at =
          codes + token / 16 * KeyPanelBytes(kKeyBits, head_dim_) + token % 16 * 4;
      int32_t(*to)[4] = sums + j;
      if constexpr (kKeyBits == 8) {
        ScoreBytes(at, queries, to);
      } else if constexpr (kKeyBits == 2) {
        ScorePairs(at, queries, to);
      } else {
        ScoreNibbles(at, KeyLevels().words, queries, to);
        if constexpr (kRestShift > 0) {
          for (int i = 0; i < 4 * kWide; ++i) {
            to[i / 4][i % 4] *= 1 << kRestShift;
          }
          ScoreNibbles(at, KeyLevels().rest, queries, to);
        }
      }
    }
  }

  // Four dimensions of values at a time, which are four columns: `out` as AttentionWarp has it,
  // times `kept`, plus the products times `step`.
  HD void AddValues(const std::byte* values, const uint32_t (&weights)[kWeightSteps][4], float kept,
                    float step, float (&out)[kDim / 4]) const {
#pragma unroll
    for (int part = 0; part < kDim / 32; ++part) {
      const std::byte* at = values + Panel(2 * part + g_ / 4) * kStoredPanel + g_ % 4 * 16;
      WordRun<4> rows[4];
      LoadValueRows(at, rows);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int32_t sums[4] = {};
        MultiplyValues(rows, i, weights, sums);
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          float& to = out[8 * part + 4 * u + i];
          const auto sum = static_cast<float>(sums[u] * 256 + sums[2 + u]);
          to = Thread::Fma(sum, step, to * kept);
        }
      }
    }
  }

  // Whole numbers of 16 bits, one for each product j and column 2 t + u, as operands.
  HD static void PackWeights(const uint32_t (&whole)[kProducts][2],
                             uint32_t (&weights)[kWeightSteps][4]) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if constexpr (kValueBits == 8) {
        Pack(whole[0][b], whole[1][b], whole[2][b], whole[3][b], weights[0], b);
      } else if constexpr (kValueBits == 2) {
        Pack(whole[0][b], whole[2][b], whole[1][b], whole[3][b], weights[0], b);
        Pack(whole[4][b], 0, whole[5][b], 0, weights[1], b);  // there is no fourth group
      } else {
        for (int s = 0; s < 2; ++s) {
          const uint32_t(*pair)[2] = whole + 4 * s + 2 * b;
          Pack(pair[0][0], pair[0][1], pair[1][0], pair[1][1], weights[s], b);
        }
      }
    }
  }

 private:
  using Levels = CodeLevels<Thread>;
  static constexpr int kSteps = kDim / 32;           // products of a score
  static constexpr bool kWholeGroups = kDim >= 128;  // a lane reads whole groups of K, not halves
  // Bytes of a panel of V in shared memory. A warm chunk has the group of its tokens alone.
  static constexpr int kStoredPanel =
      kValueBits == 8 ? GroupBytes(8) : PanelBytes(kValueBits, kRows);

  static constexpr int kGroupSteps = kWholeGroups ? 4 : 2;  // of the groups that a lane reads

  // With outputs of 256 dimensions no registers are left to load far ahead.
  static constexpr int kUnroll = kDim == 256 ? 1 : 8;

  HD auto LoadQuery(const std::byte* queries, int step) const {
    return x_.Load16(queries + (step * 32 + x_.lane()) * 16);
  }
  // Groups and panels that a smaller head lacks are read as the first one: their queries are zero,
  // their outputs are dropped.
  HD int Group(int group) const {
    return kPadded && group * GroupInner(kKeyBits) >= head_dim_ ? 0 : group;
  }
  HD int Panel(int panel) const { return kPadded && panel * kPanelLanes >= head_dim_ ? 0 : panel; }
  HD const LevelBytes& KeyLevels() const { return levels_[kKeyBits == 8 ? 0 : kKeyBits - 2]; }
  HD const LevelBytes& ValueLevels() const { return levels_[kValueBits == 8 ? 0 : kValueBits - 2]; }

  HD void MultiplyKey(int32_t (&sums)[4], const uint32_t (&q)[4], const uint32_t (&table)[4],
                      uint32_t selector) const {
    uint32_t low;
    uint32_t high;
    Levels::template LevelsOf<kKeyBits>(table, selector, low, high);
    x_.template Multiply<int8_t>(sums, q, low, high);
  }

  HD void ScoreBytes(const std::byte* at, const std::byte* queries, int32_t (*sums)[4]) const {
#pragma unroll kUnroll
    for (int step = 0; step < kSteps; ++step) {
      const auto q = LoadQuery(queries, step);
      const std::byte* group = at + Group(step) * GroupBytes(8) + t_ * kGroupRowBytes;
      const WordRun<kWide> low = Levels::template Load<kWide>(x_, group);
      const WordRun<kWide> high = Levels::template Load<kWide>(x_, group + 4 * kGroupRowBytes);
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
        x_.template Multiply<int8_t>(sums[i], q.w, low.w[i], high.w[i]);
      }
    }
  }

  // `table`: the levels' bytes, or their rest.
  HD void ScoreNibbles(const std::byte* at, const uint32_t (&table)[4], const std::byte* queries,
                       int32_t (*sums)[4]) const {
#pragma unroll kUnroll
    for (int first = 0; first < kSteps; first += 4) {
      typename Thread::Words q[kGroupSteps];
      for (int step = 0; step < kGroupSteps; ++step) {
        q[step] = LoadQuery(queries, first + step);
      }
      WordRun<kWide> rows[4];
      const int group = kWholeGroups ? t_ + first : t_ / 2;
      Levels::template LoadRows<kKeyBits>(x_, at + Group(group) * GroupBytes(kKeyBits), rows);
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
#pragma unroll
        for (int step = 0; step < kGroupSteps; ++step) {
          const uint32_t selector = kWholeGroups
                                        ? Levels::template Selector<kKeyBits>(rows[step].w[i])
                                        : Levels::template Selector<kKeyBits>(
                                              rows[step].w[i], rows[(step + 2) % 4].w[i], t_ % 2);
          MultiplyKey(sums[i], q[step].w, table, selector);
        }
      }
    }
  }

  HD void ScorePairs(const std::byte* at, const std::byte* queries, int32_t (*sums)[4]) const {
#pragma unroll kUnroll
    for (int first = 0; first < kSteps; first += 2) {
      const typename Thread::Words q[2] = {LoadQuery(queries, first),
                                           LoadQuery(queries, first + 1)};
      const int group = Group(t_ + 2 * first);
      const WordRun<kWide> row = Levels::template Load<kWide>(x_, at + group * GroupBytes(2));
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          MultiplyKey(sums[i], q[step].w, KeyLevels().words, row.w[i] >> 2 * step & 0x33333333U);
        }
      }
    }
  }

  HD void LoadValueRows(const std::byte* at, WordRun<4> (&rows)[4]) const {
    if constexpr (kValueBits == 8) {
      for (int b = 0; b < 2; ++b) {
        rows[b] = Levels::template Load<4>(x_, at + (2 * t_ + b) * kGroupRowBytes);
      }
    } else if constexpr (kValueBits == 2) {
      for (int group = 0; group < 3; ++group) {
        rows[group] = Levels::template Load<4>(x_, at + group * GroupBytes(2));
      }
    } else {
      Levels::template LoadRows<kValueBits>(x_, at + t_ / 2 * GroupBytes(kValueBits), rows);
    }
  }

  HD void MultiplyValues(const WordRun<4> (&rows)[4], int i,
                         const uint32_t (&weights)[kWeightSteps][4], int32_t (&sums)[4]) const {
    if constexpr (kValueBits == 8) {
      x_.template Multiply<uint8_t>(sums, weights[0], rows[0].w[i], rows[1].w[i]);
    } else {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t selector;
        if constexpr (kValueBits == 2) {
          const uint32_t first = rows[2 * step].w[i] >> 2 * t_ & 0x03030303U;
          const uint32_t second = rows[1].w[i] >> 2 * t_ & 0x03030303U;
          selector = step == 0 ? first | second << 4 : first;
        } else {
          selector =
              Levels::template Selector<kValueBits>(rows[step].w[i], rows[step + 2].w[i], t_ % 2);
        }
        uint32_t low;
        uint32_t high;
        Levels::template LevelsOf<kValueBits>(ValueLevels().words, selector, low, high);
        x_.template Multiply<uint8_t>(sums, weights[step], low, high);
      }
    }
  }

  // The weights of bytes e = 0 to 3 of register b.
  HD static void Pack(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3, uint32_t (&to)[4],
                      int b) {
    const uint32_t first = Thread::Permute(w0, w1, 0x5410U);
    const uint32_t second = Thread::Permute(w2, w3, 0x5410U);
    to[2 * b] = Thread::Permute(first, second, 0x7531U);
    to[2 * b + 1] = Thread::Permute(first, second, 0x6420U);
  }

  Thread& x_;
  const LevelBytes (&levels_)[3];
  int head_dim_;
  int g_;  // this lane's row of queries and weights; its column of what they are multiplied with
  int t_;  // of four lanes that share a row
};

}  // namespace thermocline
