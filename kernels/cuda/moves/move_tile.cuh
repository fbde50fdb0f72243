#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/hadamard.h"
#include "kernels/core/quantize.h"
#include "kernels/cuda/moves/page_moves.h"
#include "kernels/cuda/moves/quantize_rows.cuh"
#include "kernels/cuda/moves/round_keys.cuh"
#include "kernels/cuda/moves/tile.cuh"

namespace thermocline {

// Which block of which move a thread block works on. Those of one layer and KV head follow each
// other, because they read the same query factors.
struct MoveBlock {
  int layer;
  int kv_head;
  int move;
  HD MoveBlock(const MoveBatch& of, int64_t index)
      : layer(static_cast<int>(index / of.num_moves / of.kv.layout.num_kv_heads)),
        kv_head(static_cast<int>(index / of.num_moves % of.kv.layout.num_kv_heads)),
        move(static_cast<int>(index % of.num_moves)) {}
  // The index of this block in the lists of a MoveWorkspace.
  HD int64_t in_workspace(const KvLayout& layout) const {
    return (int64_t{move} * layout.num_layers + layer) * layout.num_kv_heads + kv_head;
  }
};

// A tile of a move: at most kMoveTileRows rows of K or of V of a block. A warp that is alone in its
// thread block does it.
template <typename Thread>
class TileMover {
 public:
  static HD uint32_t SharedBytes(const KvLayout& layout) {
    return sizeof(float) * (2 * TileFloats(layout.head_dim) + kMoveTileRows + 16);
  }
  static HD int64_t NumThreadBlocks(const MoveBatch& of) {
    return of.num_moves * NumMoveBlocks(of.kv.layout) * NumTiles(of.kv.layout);
  }

  HD TileMover(const Thread& thread, const MoveBatch& of)
      : thread_(thread),
        of_(of),
        lane_(thread.lane()),
        dim_(of.kv.layout.head_dim),
        tile_(thread.block() % NumTiles(of.kv.layout)),
        at_(of, thread.block() / NumTiles(of.kv.layout)),
        keys_(tile_ < NumTiles(of.kv.layout) / 2),
        first_(tile_ % (NumTiles(of.kv.layout) / 2) * kMoveTileRows) {
    const PageMove& move = of.moves[at_.move];
    from_ = of.kv.format(at_.layer, move.from.tier()).codec;
    to_ = of.kv.format(at_.layer, move.to.tier()).codec;
    in_ = of.kv.block_at(move.from, at_.layer, at_.kv_head);
    out_ = of.kv.block_at(move.to, at_.layer, at_.kv_head);
    auto* floats = thread.template shared<float>(0);
    x_ = floats;
    e_ = floats + TileFloats(dim_);
    inverses_ = e_ + TileFloats(dim_);
    levels_ = inverses_ + kMoveTileRows;
    const int left = parts().rows - first_;
    count_ = left < 0 ? 0 : left < kMoveTileRows ? left : kMoveTileRows;
  }

  HD void Run() {
    bool finite = true;
    if (from_ == to_) {
      CopyPart();
    } else if (count_ > 0) {
      IsMerged(to_) ? LoadMeans() : Load();
      finite = keys_ ? StoreKeys() : StoreValues();
    }
    const uint32_t not_finite = thread_.Ballot(!finite);
    if (lane_ == 0) {
      const int64_t block = at_.in_workspace(of_.kv.layout);
      MoveWorkspaceOf(of_).not_finite[block * NumTiles(of_.kv.layout) + tile_] =
          not_finite != 0 ? 1 : 0;
    }
  }

 private:
  HD const BlockParts& parts() const { return of_.tables.parts[static_cast<int>(to_)]; }
  HD const Codebook& book(int bits) const { return of_.tables.books[bits - 2]; }
  HD TileColumn column() const { return {x_ + lane_}; }

  // A tile's share of a block.
  HD void CopyPart() const {
    const auto bits = reinterpret_cast<uintptr_t>(in_) | reinterpret_cast<uintptr_t>(out_);
    if ((bits | parts().bytes) % 16 == 0) {
      CopyWords<typename Thread::Words>();
    } else {
      CopyWords<uint32_t>();
    }
  }
  template <typename Word>
  HD void CopyWords() const {
    const auto size = static_cast<uint32_t>(sizeof(Word));
    const auto first = static_cast<uint32_t>(tile_ * kMoveTileRows + lane_);
    const auto step = static_cast<uint32_t>(NumTiles(of_.kv.layout) * kMoveTileRows);
    for (uint32_t at = first * size; at < parts().bytes; at += step * size) {
      if constexpr (sizeof(Word) == 16) {
        thread_.StoreGlobal16(out_ + at, thread_.LoadGlobal16(in_ + at));
      } else {
        *reinterpret_cast<Word*>(out_ + at) = *reinterpret_cast<const Word*>(in_ + at);
      }
    }
  }

  HD SourcePart<Thread> source() const {
    return SourcePart<Thread>(thread_, of_, from_, keys_, in_, levels_);
  }
  // What K gets: its mean key and bias, taken off or put back where one of the codecs is native.
  HD float sign() const {
    return to_ == Codec::kNative ? 1.0F : from_ == Codec::kNative ? -1.0F : 0.0F;
  }
  HD const float* mean_key() const {
    return keys_ && sign() != 0 ? of_.kv.mean_key(at_.layer, at_.kv_head) : nullptr;
  }

  // A row for each token. Rows and columns that there are none of are zeros.
  HD void Load() {
    source().Read([this](auto read) {
      for (int row = 0; row < kMoveTileRows; ++row) {
        for (int i = lane_; i < TileColumns(dim_); i += 32) {
          x_[i * kTileStride + row] = row < count_ && i < dim_ ? read(first_ + row, i) : 0.0F;
        }
      }
    });
    thread_.SyncWarp();
    if (!keys_ || sign() == 0 || lane_ >= count_) {
      return;
    }
    AddKeyBias();
    const float* mean = mean_key();
    for (int i = 0; i < dim_ && mean != nullptr; ++i) {
      column()[i] += sign() * mean[i];
    }
  }

  // AddKeyBias of kernels/quant/key_bias.h, for a lane's token.
  HD void AddKeyBias() const {
    const KvCacheView& kv = of_.kv;
    const KeyBiasView& bias = kv.key_bias;
    if (!bias.has(at_.layer)) {
      return;
    }
    const int num_pairs = bias.num_pairs;
    const int page_tokens = kv.layout.page_tokens;
    const int token = first_ + lane_;
    const float* real = kv.key_bias_of(at_.layer, at_.kv_head);
    const float* imaginary = real + num_pairs;
    const float* cos = bias.page_angles +
                       2 * int64_t{num_pairs} * (of_.moves[at_.move].first_position / page_tokens);
    const float* sin = cos + num_pairs;
    const TileColumn key{e_ + lane_};
    for (int i = 0; i < num_pairs; ++i) {
      const float page_real = real[i] * cos[i] - imaginary[i] * sin[i];
      const float page_imaginary = real[i] * sin[i] + imaginary[i] * cos[i];
      const float token_cos = bias.token_angles[i * page_tokens + token];
      const float minus_sin = bias.token_angles[(num_pairs + i) * page_tokens + token];
      key[bias.elements[i]] = page_real * token_cos + page_imaginary * minus_sin;
      key[bias.elements[num_pairs + i]] = page_imaginary * token_cos - page_real * minus_sin;
    }
    RotateForward(key, bias.signs, dim_);
    for (int i = 0; i < dim_; ++i) {
      column()[i] += sign() * key[i];
    }
  }

  // A row for some tokens: their mean, added up in their order.
  HD void LoadMeans() {
    const RowChoice& choice = MoveWorkspaceOf(of_).choices[at_.in_workspace(of_.kv.layout)];
    const float* mean = mean_key();
    for (int i = lane_; i < static_cast<int>(TileFloats(dim_)); i += 32) {
      x_[i] = 0;
    }
    thread_.SyncWarp();
    source().Read([&](auto read) {
      for (int token = 0; token < kMergedTokens; ++token) {
        const int row = choice.row_of[token] - first_;
        if (row < 0 || row >= count_) {
          continue;
        }
        for (int i = lane_; i < dim_; i += 32) {
          const float value = read(token, i);
          x_[i * kTileStride + row] += mean == nullptr ? value : value + sign() * mean[i];
        }
      }
    });
    thread_.SyncWarp();
    if (lane_ < count_) {
      const float part =
          Thread::DivideExactly(1.0F, static_cast<float>(choice.sizes[first_ + lane_]));
      for (int i = 0; i < dim_; ++i) {
        column()[i] *= part;
      }
    }
  }

  // Whether a lane's row is finite, its scale then stored.
  HD bool StoreScale(float scale, uint32_t scales_at) const {
    if (lane_ >= count_) {
      return true;
    }
    *reinterpret_cast<uint16_t*>(out_ + scales_at + 2 * (first_ + lane_)) = ScaleToHalf(scale);
    return scale - scale == 0;
  }

  HD bool StoreKeys() {
    switch (to_) {
      case Codec::kNative:
        return StoreNative(0);
      case Codec::kInt8:
        return StoreKeyCodes<8>();
      case Codec::kTurboK4V3:
        return StoreKeyCodes<4>();
      case Codec::kTurbo3:
      case Codec::kMergedK3V2:
        return StoreKeyCodes<3>();
      case Codec::kMerged2:
        break;
    }
    return StoreKeyCodes<2>();
  }
  HD bool StoreValues() {
    switch (to_) {
      case Codec::kNative:
        return StoreNative(parts().v_codes);
      case Codec::kInt8:
        return StoreValueCodes<8>();
      case Codec::kTurboK4V3:
      case Codec::kTurbo3:
        return StoreValueCodes<3>();
      case Codec::kMergedK3V2:
      case Codec::kMerged2:
        break;
    }
    return StoreValueCodes<2>();
  }

  HD bool StoreNative(uint32_t part) const {
    thread_.SyncWarp();
    auto* rows = reinterpret_cast<uint16_t*>(out_ + part) + static_cast<int64_t>(first_) * dim_;
    for (int row = 0; row < count_; ++row) {
      for (int i = lane_; i < dim_; i += 32) {
        rows[row * dim_ + i] = FloatToHalf(x_[i * kTileStride + row]);
      }
    }
    return true;
  }

  // How far a lane's vector is from its codes.
  template <int kBits>
  HD RowScale ScaleOf() const {
    if constexpr (kBits == 8) {
      return Int8Scale<Thread>(column(), dim_);
    } else {
      return TurboScale<Thread, kBits>(column(), dim_, book(kBits));
    }
  }
  template <int kBits>
  HD const Codebook& BookOf() const {
    return book(kBits % 6);  // eight bits have none, and read none
  }

  // A lane takes a token, which is a lane of a panel.
  template <int kBits>
  HD bool StoreKeyCodes() {
    if (lane_ >= count_) {
      return true;
    }
    const int token = first_ + lane_;
    const int num_fours = parts().k_panel_bytes / GroupBytes(kBits) * RowPacker<kBits>::kFours;
    std::byte* lane =
        out_ + token / kPanelLanes * parts().k_panel_bytes + 4 * (token % kPanelLanes);
    const float* factors = of_.kv.query_factors_of(at_.layer, at_.kv_head);
    if (kBits != 8 && factors != nullptr) {
      if constexpr (kBits != 8) {
        const FactorRows<Thread> rows(thread_, factors, dim_);
        KeyRounder<Thread, kBits> rounder(rows, book(kBits), column(), {e_ + lane_});
        return StoreScale(rounder.Run(num_fours, lane), parts().k_scales);
      }
    }
    const RowScale scale = ScaleOf<kBits>();
    PackVector<Thread, kBits>(column(), dim_, num_fours, scale.inverse, BookOf<kBits>(), lane);
    return StoreScale(scale.scale, parts().k_scales);
  }

  // A lane takes a token for its scale, then dimensions, which are lanes of a panel.
  template <int kBits>
  HD bool StoreValueCodes() {
    const RowScale scale = ScaleOf<kBits>();
    inverses_[lane_] = scale.inverse;
    const bool finite = StoreScale(scale.scale, parts().v_scales);
    thread_.SyncWarp();
    constexpr int kInner = GroupInner(kBits);
    const int num_fours = (count_ + kInner - 1) / kInner * RowPacker<kBits>::kFours;
    for (int i = lane_; i < TileColumns(dim_); i += 32) {
      RowPacker<kBits> packer(out_ + parts().v_codes + i / kPanelLanes * parts().v_panel_bytes +
                              first_ / kInner * GroupBytes(kBits) + 4 * (i % kPanelLanes));
      const float* tokens = x_ + i * kTileStride;
      for (int four = num_fours - 1; four >= 0; --four) {
        uint32_t codes = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int token = 4 * four + e;
          if (token < count_ && i < dim_) {
            codes |= CodeByte<Thread, kBits>(tokens[token], inverses_[token], BookOf<kBits>())
                     << 8 * e;
          }
        }
        packer.Put(four, codes);
      }
    }
    return finite;
  }

  const Thread& thread_;
  const MoveBatch& of_;
  int lane_;
  int dim_;
  int tile_;  // first those of K, then those of V
  MoveBlock at_;
  bool keys_;
  int first_;  // row of the block
  int count_ = 0;
  Codec from_ = Codec::kNative;
  Codec to_ = Codec::kNative;
  const std::byte* in_ = nullptr;
  std::byte* out_ = nullptr;
  float* x_ = nullptr;  // [TileColumns][kTileStride]
  float* e_ = nullptr;  // the same
  float* inverses_ = nullptr;
  float* levels_ = nullptr;
};

}  // namespace thermocline
