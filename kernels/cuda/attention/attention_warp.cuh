#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/chunk_copies.cuh"
#include "kernels/cuda/attention/coded_operands.cuh"
#include "kernels/cuda/attention/page_cursor.cuh"
#include "kernels/cuda/attention/queries.cuh"
#include "kernels/cuda/attention/softmax_rows.cuh"

namespace thermocline {

// A warp's share of an item: its pages one after the other, whatever their codecs, for the rows of
// a tile. Row g of all is that of lanes 4 g + t. Queries are in shared memory (QueryLoader); the
// warp alone copies into its ring and reads it. Leaves the state of the online softmax.
template <typename Thread, int kDim, bool kPadded>
class AttentionWarp {
 public:
  HD AttentionWarp(Thread& thread, const AttentionLaunch& of, const AttentionTile& tile)
      : x_(thread),
        of_(of),
        tile_(tile),
        head_dim_(kPadded ? of.head_dim : kDim),
        g_(thread.lane() / 4),
        t_(thread.lane() % 4),
        position_(PositionOf(g_ < tile.num_rows ? g_ : tile.num_rows - 1)),
        softmax_(thread) {
    sight_.first_row_position = PositionOf(0);
    sight_.last_row_position = PositionOf(tile.num_rows - 1);
    sight_.first_seen = of.window > 0 ? sight_.first_row_position - of.window + 1 : 0;
  }

  // Pages [first, end) of the tile.
  HD void Run(int first, int end) {
    PageCursor at(of_, tile_, sight_, first, end);
    PageCursor next = at;
    for (int stage = 0; stage < kStages; ++stage) {
      Fetch(next, stage);
    }
    facts_ = x_.template shared<RowFacts>(Memory::kRowFacts)[g_];
    int stage = 0;
    for (; !at.done(); at.Next()) {
      x_.template EndCopy<kStages - 1>(stage);
      Attend(at, StageAt(stage));
      if (at.is_last_of_page()) {
        EndPage(at.page);
      }
      x_.SyncWarp();  // all lanes have read the chunk
      Fetch(next, stage);
      stage = stage + 1 < kStages ? stage + 1 : 0;
    }
  }

  // [kTileRows][kDim] outputs, not divided by the sum, then maxima, then sums.
  HD void StoreState(float* state) const {
    for (int i = 0; i < kDim / 4; ++i) {
      state[g_ * kDim + i / 8 * 32 + 8 * t_ + i % 8] = out_[i];
    }
    if (t_ == 0) {
      state[kTileRows * kDim + g_] = softmax_.max();
      state[kTileRows * kDim + kTileRows + g_] = softmax_.sum();
    }
  }

 private:
  using Memory = AttentionMemory<kDim>;

  HD int PositionOf(int row) const {
    return of_.positions[tile_.first_token + (tile_.first_row + row) / of_.group];
  }
  HD std::byte* StageAt(int stage) const {
    return x_.template shared<std::byte>(Memory::kRings) +
           (x_.warp() * kStages + stage) * Memory::kStageBytes;
  }
  HD void Fetch(PageCursor& next, int stage) {
    if (next.done()) {
      x_.NoCopy();
      return;
    }
    CopyChunk(x_, next, head_dim_, stage, StageAt(stage));
    next.Next();
  }

  HD void Attend(const PageCursor& at, const std::byte* chunk) {
    switch (at.codec) {
      case Codec::kNative:
        return AttendHot(at, chunk);
      case Codec::kInt8:
        return AttendCoded<8, 8>(at, chunk);
      case Codec::kTurbo3:
        return AttendCoded<3, 3>(at, chunk);
      case Codec::kTurboK4V3:
        return AttendCoded<4, 3>(at, chunk);
      case Codec::kMerged2:
        return AttendCoded<2, 2>(at, chunk);
      case Codec::kMergedK3V2:
        return AttendCoded<3, 2>(at, chunk);
    }
  }

  // Scores of products' columns 2 t + u -> weights: the cap, then what is not of this query.
  // `token_of`: the chunk's token of product j and column c.
  template <int kProducts, typename TokenOf>
  HD void CapAndMask(const PageCursor& at, float (&scores)[kProducts][2], TokenOf token_of) const {
    if (of_.score_cap > 0) {
      const float cap = of_.score_cap * kLog2E;
      const float inverse = Thread::DivideExactly(2 * kLog2E, cap);
      for (int i = 0; i < 2 * kProducts; ++i) {  // tanh x = 1 - 2 / (e^2x + 1)
        float& score = scores[i / 2][i % 2];
        score = cap - Thread::Divide(2 * cap, Thread::Exp2(score * inverse) + 1);
      }
    }
    if (IsMerged(at.codec) || !IsEdge(at)) {
      return;
    }
    const int before = of_.window > 0 ? position_ - of_.window : -1;
    for (int i = 0; i < 2 * kProducts; ++i) {
      const int position = at.chunk_position() + token_of(i / 2, 2 * t_ + i % 2);
      if (position > position_ || position <= before) {
        scores[i / 2][i % 2] = -INFINITY;
      }
    }
  }
  // Whether some query of the tile sees a part of the chunk only.
  HD bool IsEdge(const PageCursor& at) const {
    return at.chunk_position() + at.chunk_tokens() - 1 > sight_.first_row_position ||
           (of_.window > 0 && at.chunk_position() <= sight_.last_row_position - of_.window);
  }

  // Halves of kWide neighbouring tokens.
  template <int kWide>
  HD void LoadHalves(const std::byte* at, float (&to)[kWide]) const {
    uint32_t words[2];
    if constexpr (kWide == 4) {
      const auto pair = x_.Load8(at);
      words[0] = pair.w[0];
      words[1] = pair.w[1];
    } else {
      words[0] = x_.Load4(at);
    }
    for (int i = 0; i < kWide; ++i) {
      to[i] = Thread::HalfBits(words[i / 2] >> 16 * (i % 2) & 0xffffU);
    }
  }

  template <int kKeyBits, int kValueBits>
  HD void AttendCoded(const PageCursor& at, const std::byte* chunk) {
    using Operands = CodedOperands<Thread, kDim, kPadded, kKeyBits, kValueBits>;
    constexpr int kProducts = Operands::kProducts;
    constexpr int kWide = Operands::kWide;
    const Operands operands(x_, of_.levels, head_dim_);
    BlockParts parts = operands.parts();
    if constexpr (kValueBits == 8) {
      const WarmChunk warm(head_dim_);
      parts = {.key_scales = warm.key_scales(),
               .values = warm.values(),
               .value_scales = warm.value_scales()};
    }
    int32_t sums[kProducts][4] = {};
    operands.Score(chunk, ByteQueries(kKeyBits), sums);
    float scores[kProducts][2];
    const float level_step =
        kKeyBits == 8 ? 1.0F : of_.levels[kKeyBits == 8 ? 0 : kKeyBits - 2].step;
    const float step =
        facts_.size * level_step * (1.0F / (kMostQuerySteps * (1 << Operands::kRestShift)));
#pragma unroll
    for (int i = 0; i < 2 * kProducts / kWide; ++i) {
      const int first = i / 2 * kWide;
      const int u = i % 2;
      float scales[kWide];
      LoadHalves(chunk + parts.key_scales + 2 * Operands::TokenOf(first, 2 * t_ + u), scales);
#pragma unroll
      for (int k = 0; k < kWide; ++k) {
        const int32_t(&sum)[4] = sums[first + k];
        const float steps =
            Operands::kRestShift > 0  // else they fit 31 bits together
                ? Thread::Fma(static_cast<float>(sum[u]), 256.0F, static_cast<float>(sum[2 + u]))
                : static_cast<float>(sum[u] * 256 + sum[2 + u]);
        scores[first + k][u] = Thread::Fma(steps * scales[k], step, facts_.mean);
      }
    }
    if constexpr (kValueBits != 2) {  // layers with a bias have no merged pages
      if (of_.bias.angles != nullptr) {
        AddBias(at, scores, Operands::TokenOf);
      }
    }
    CapAndMask(at, scores, Operands::TokenOf);
    if constexpr (kValueBits == 2) {
#pragma unroll
      for (int i = 0; i < 2 * kProducts / kWide; ++i) {
        const int first = i / 2 * kWide;
        float logs[kWide];
        LoadHalves(chunk + parts.log_weights + 2 * Operands::TokenOf(first, 2 * t_ + i % 2), logs);
        for (int k = 0; k < kWide; ++k) {
          scores[first + k][i % 2] = Thread::Fma(logs[k], kLog2E, scores[first + k][i % 2]);
        }
      }
    }
    const float kept = softmax_.Weigh(scores);
    AddCodedValues<Operands>(chunk, parts, scores, kept, kValueBits);
  }

  HD const std::byte* ByteQueries(int key_bits) const {
    const int form = key_bits == 8 ? 0 : key_bits == 2 ? 2 : 1;
    return x_.template shared<std::byte>(Memory::kByteQueries + form * Memory::kByteQueriesOfOne);
  }

  // Weights times their values' scales, in whole steps of a bound that no weight of the row
  // exceeds.
  template <typename Operands>
  HD void AddCodedValues(const std::byte* chunk, const BlockParts& parts,
                         float (&weights)[Operands::kProducts][2], float kept, int value_bits) {
    constexpr int kWide = Operands::kWide;
    float largest_scale = 0;
#pragma unroll
    for (int i = 0; i < 2 * Operands::kProducts / kWide; ++i) {
      const int first = i / 2 * kWide;
      float scales[kWide];
      LoadHalves(chunk + parts.value_scales + 2 * Operands::TokenOf(first, 2 * t_ + i % 2), scales);
      for (int k = 0; k < kWide; ++k) {
        largest_scale = fmaxf(largest_scale, scales[k]);
        weights[first + k][i % 2] *= scales[k];
      }
    }
    largest_scale = softmax_.LargestOfRow(largest_scale);
    const float bound =
        fmaxf(Thread::Exp2(softmax_.chunk_max() - softmax_.max()) * largest_scale, 1e-30F);
    const float inverse = Thread::Divide(kMostWeightSteps, bound);
    uint32_t whole[Operands::kProducts][2];
    for (int i = 0; i < 2 * Operands::kProducts; ++i) {
      // Adding 2^23 leaves a whole number in the low bits.
      whole[i / 2][i % 2] = Thread::Bits(Thread::Fma(weights[i / 2][i % 2], inverse, 8388608.0F));
    }
    uint32_t packed[Operands::kWeightSteps][4];
    Operands::PackWeights(whole, packed);
    const float level_step = value_bits == 8 ? 1.0F : of_.levels[value_bits == 2 ? 0 : 1].step;
    Operands(x_, of_.levels, head_dim_)
        .AddValues(chunk + parts.values, packed, kept, bound * (level_step / kMostWeightSteps),
                   out_);
  }

  // A pair of a query's and of a bias's dimensions as complex numbers: the bias is turned by the
  // page, their product by each token (kernels/quant/key_bias.h). A factor is the sum of two
  // halves.
  template <int kProducts, typename TokenOf>
  HD void AddBias(const PageCursor& at, float (&scores)[kProducts][2], TokenOf token_of) const {
    const int num_steps = (of_.bias.num_pairs + 7) / 8;
    float sums[kProducts][4] = {};
    for (int step = 0; step < num_steps; ++step) {
      uint32_t a[4] = {};
      for (int b = 0; b < 2; ++b) {
        LoadTurned(at, 8 * step + 4 * b + t_, a[2 * b], a[2 * b + 1]);
      }
#pragma unroll
      for (int j = 0; j < kProducts; ++j) {
        const int token = at.chunk * at.chunk_tokens() + token_of(j, g_);
        const auto words =
            x_.LoadGlobal16(of_.bias.angles + ((token * num_steps + step) * 4 + t_) * 4);
        x_.MultiplyHalves(sums[j], a, words.w[0], words.w[1]);
        x_.MultiplyHalves(sums[j], a, words.w[2], words.w[3]);
      }
    }
    for (int i = 0; i < 2 * kProducts; ++i) {
      const float(&sum)[4] = sums[i / 2];
      float& score = scores[i / 2][i % 2];
      score = Thread::Fma(sum[i % 2] + sum[2 + i % 2], facts_.bias_size, score);
    }
  }
  // The two parts of row g's product of a pair, at the page's first position: high halves, low
  // ones.
  HD void LoadTurned(const PageCursor& at, int pair, uint32_t& high, uint32_t& low) const {
    const AttentionBias& bias = of_.bias;
    if (pair >= bias.num_pairs) {
      return;
    }
    const float* real = bias.biases + int64_t{tile_.kv_head} * 2 * bias.num_pairs + pair;
    const float* cos =
        bias.page_angles + int64_t{at.first_position / 64} * 2 * bias.num_pairs + pair;
    const float re = real[0];
    const float im = real[bias.num_pairs];
    const float turned_re = re * cos[0] - im * cos[bias.num_pairs];
    const float turned_im = re * cos[bias.num_pairs] + im * cos[0];
    const float* q = x_.template shared<float>(Memory::kQueryRows) + g_ * kDim;
    const float q_re = q[bias.elements[pair]] * facts_.inverse_bias_size;
    const float q_im = q[bias.elements[bias.num_pairs + pair]] * facts_.inverse_bias_size;
    const float parts[2] = {q_re * turned_re + q_im * turned_im,
                            q_re * turned_im - q_im * turned_re};
    for (int i = 0; i < 2; ++i) {
      const uint32_t half = Thread::HalfOf(parts[i]);
      high |= half << 16 * i;
      low |= Thread::HalfOf(parts[i] - Thread::HalfBits(half)) << 16 * i;
    }
  }

  // 16 hot tokens: K [16][head_dim] halves, V the same. Queries and weights are two halves each.
  HD void AttendHot(const PageCursor& at, const std::byte* chunk) {
    float sums[2][4] = {};
    const std::byte* queries = x_.template shared<std::byte>(Memory::kHalfQueries);
    const int vector_bytes = 2 * head_dim_;
#pragma unroll 4
    for (int step = 0; step < kDim / 16; step += 2) {
      const auto q0 = x_.Load16(queries + (step * 32 + x_.lane()) * 16);
      const auto q1 = x_.Load16(queries + ((step + 1) * 32 + x_.lane()) * 16);
      const int dim = DimOfHalf(step, t_, 0, 0);  // of eight
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const auto k = x_.Load16(chunk + (8 * j + g_) * vector_bytes + 2 * Dim(dim));
        x_.MultiplyHalves(sums[j], q0.w, k.w[0], k.w[1]);
        x_.MultiplyHalves(sums[j], q1.w, k.w[2], k.w[3]);
      }
    }
    float scores[2][2];
    for (int i = 0; i < 4; ++i) {
      scores[i / 2][i % 2] = (sums[i / 2][i % 2] + sums[i / 2][2 + i % 2]) * facts_.size;
    }
    CapAndMask(at, scores, [](int j, int c) { return 8 * j + c; });
    const float kept = softmax_.Weigh(scores);
    uint32_t weights[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t high = Thread::HalfOf(scores[i / 2][i % 2]);
      weights[i / 2 * 2] |= high << 16 * (i % 2);
      weights[i / 2 * 2 + 1] |= Thread::HalfOf(scores[i / 2][i % 2] - Thread::HalfBits(high))
                                << 16 * (i % 2);
    }
    AddHotValues(at, chunk + 16 * vector_bytes, weights, kept);
  }

  HD void AddHotValues(const PageCursor& at, const std::byte* values, const uint32_t (&weights)[4],
                       float kept) {
    // Behind the last query lies whatever was there before, even what is no number: zero times it
    // would not be zero.
    const int num_seen = sight_.last_row_position - at.chunk_position() + 1;
    const bool is_partial = num_seen < 16;
#pragma unroll
    for (int part = 0; part < kDim / 32; ++part) {
      uint32_t v[4][2];  // of tokens 8 b + 2 t + u: four dimensions
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = i / 2 * 8 + 2 * t_ + i % 2;
        const auto pair = x_.Load8(values + token * 2 * head_dim_ + 2 * Dim(32 * part + 4 * g_));
        v[i][0] = is_partial && token >= num_seen ? 0 : pair.w[0];
        v[i][1] = is_partial && token >= num_seen ? 0 : pair.w[1];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t selector = i % 2 == 0 ? 0x5410U : 0x7632U;
        float sums[4] = {};
        x_.MultiplyHalves(sums, weights, Thread::Permute(v[0][i / 2], v[1][i / 2], selector),
                          Thread::Permute(v[2][i / 2], v[3][i / 2], selector));
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          float& to = out_[8 * part + 4 * u + i];
          to = Thread::Fma(to, kept, sums[u] + sums[2 + u]);
        }
      }
    }
  }
  // Dimensions that a smaller head lacks are read as the first ones: their queries are zero, their
  // outputs are dropped.
  HD int Dim(int dim) const { return kPadded && dim >= head_dim_ ? 0 : dim; }

  HD void EndPage(int page) {
    if (of_.log_energy != nullptr && t_ == 0) {
      const bool observed = g_ >= tile_.first_observed && g_ < tile_.num_rows;
      of_.log_energy[tile_.first_energy + int64_t{page} * kTileRows + g_] =
          observed ? softmax_.max() + Thread::Log2(softmax_.page_sum()) + softmax_.page_max()
                   : -INFINITY;
    }
    softmax_.BeginPage();
  }

  Thread& x_;
  const AttentionLaunch& of_;
  const AttentionTile& tile_;
  int head_dim_;
  int g_;
  int t_;
  int position_;  // of row g's query
  TileSight sight_;
  RowFacts facts_;
  SoftmaxRows<Thread> softmax_;
  float out_[kDim / 4] = {};  // out_[8 p + i]: dimension 32 p + 8 t + i of row g
};

}  // namespace thermocline
