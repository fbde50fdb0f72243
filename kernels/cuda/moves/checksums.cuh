#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"
#include "kernels/core/xxh3.h"
#include "kernels/cuda/moves/move_tile.cuh"
#include "kernels/cuda/moves/page_moves.h"

namespace thermocline {

// XXH3 of bytes that a warp shares. Every eight lanes take a block of 1 KiB; what four blocks add
// up to goes through shared memory to the first eight lanes, which scramble in order.
template <typename Thread>
class WarpHash {
 public:
  static constexpr int kGroups = 4;
  static constexpr uint32_t kSharedBytes = sizeof(uint64_t) * (24 + 2 * kGroups * kXxh3Lanes);

  HD WarpHash(const Thread& thread, const Xxh3Secret& secret)
      : thread_(thread),
        secret_(thread.template shared<uint64_t>(0)),
        products_(secret_ + 24),
        words_(products_ + kGroups * kXxh3Lanes) {
    if (thread.lane() < 24) {
      secret_[thread.lane()] = secret.words[thread.lane()];
    }
    thread.SyncWarp();
  }

  // All lanes call it; the result is the first one's. data: aligned to 8, bytes a multiple of 8.
  HD uint64_t Hash(const std::byte* data, size_t bytes) const {
    if (bytes <= kXxh3LongestShort) {
      return thread_.lane() == 0 ? Xxh3Short(data, bytes, secret_) : 0;
    }
    const int lane = thread_.lane() % kXxh3Lanes;
    const int group = thread_.lane() / kXxh3Lanes;
    const auto num_stripes = static_cast<int>((bytes - 1) / kXxh3StripeBytes);
    const int num_whole = num_stripes / static_cast<int>(kXxh3BlockStripes);
    uint64_t value = Xxh3FirstValue(lane);
    for (int first = 0; first <= num_whole; first += kGroups) {
      AddBlock(data, bytes, first + group, num_stripes);
      thread_.SyncWarp();
      for (int i = 0; i < kGroups && group == 0 && first + i <= num_whole; ++i) {
        value += products_[i * kXxh3Lanes + lane] + words_[i * kXxh3Lanes + (lane ^ 1)];
        if (first + i < num_whole) {
          value = Xxh3Scramble(value, secret_[kXxh3ScrambleKey / 8 + static_cast<size_t>(lane)]);
        }
      }
      thread_.SyncWarp();
    }
    if (group == 0) {
      products_[lane] = value;
    }
    thread_.SyncWarp();
    const uint64_t hash = thread_.lane() == 0 ? Xxh3MergeLanes(products_, bytes, secret_) : 0;
    thread_.SyncWarp();  // it has been read before the next one is begun
    return hash;
  }

 private:
  HD uint64_t Word(const std::byte* at) const {
    const auto pair = thread_.LoadGlobal8(at);
    return uint64_t{pair.w[1]} << 32 | pair.w[0];
  }

  // What the stripes of a block, whole or not, add to this lane and to the one beside it. The last
  // 64 bytes, with a key of their own, belong to the last block.
  HD void AddBlock(const std::byte* data, size_t bytes, int block, int num_stripes) const {
    const int lane = thread_.lane() % kXxh3Lanes;
    const int first = block * static_cast<int>(kXxh3BlockStripes);
    uint64_t product = 0;
    uint64_t sum = 0;
#pragma unroll 4
    for (int i = 0; i < static_cast<int>(kXxh3BlockStripes); ++i) {
      if (first + i < num_stripes) {
        const uint64_t word = Word(data + static_cast<size_t>(first + i) * kXxh3StripeBytes +
                                   8 * static_cast<size_t>(lane));
        product += Xxh3Product(word, secret_[i + lane]);
        sum += word;
      }
    }
    if (block == num_stripes / static_cast<int>(kXxh3BlockStripes)) {
      const uint64_t word = Word(data + bytes - kXxh3StripeBytes + 8 * static_cast<size_t>(lane));
      product +=
          Xxh3Product(word, Xxh3Key(secret_, kXxh3LastStripeKey + 8 * static_cast<size_t>(lane)));
      sum += word;
    }
    products_[thread_.lane()] = product;
    words_[thread_.lane()] = sum;
  }

  const Thread& thread_;
  uint64_t* secret_;
  uint64_t* products_;  // [kGroups][kXxh3Lanes]
  uint64_t* words_;     // the same
};

// The checksums of a block, before and after its move. A warp a block; those of hot sources mean
// nothing and are not made.
template <typename Thread>
HD void HashMovedBlock(const Thread& thread, const MoveBatch& of) {
  const KvLayout& layout = of.kv.layout;
  const MoveBlock at(of, thread.block());
  const PageMove& move = of.moves[at.move];
  const Codec from = of.kv.format(at.layer, move.from.tier()).codec;
  const Codec to = of.kv.format(at.layer, move.to.tier()).codec;
  const WarpHash<Thread> hash(thread, of.tables.secret);
  const MoveWorkspace workspace = MoveWorkspaceOf(of);
  const int64_t place = at.in_workspace(layout);
  const uint64_t target = hash.Hash(of.kv.block_at(move.to, at.layer, at.kv_head),
                                    of.tables.parts[static_cast<int>(to)].bytes);
  uint64_t source = target;
  if (from != to && move.from.tier() != Tier::kHot) {
    source = hash.Hash(of.kv.block_at(move.from, at.layer, at.kv_head),
                       of.tables.parts[static_cast<int>(from)].bytes);
  }
  if (thread.lane() == 0) {
    workspace.target_hashes[place] = target;
    workspace.source_hashes[place] = source;
  }
}

// A move's outcome and its page's checksum. A warp a move.
template <typename Thread>
HD void FinishMove(const Thread& thread, const MoveBatch& of) {
  const int64_t num_blocks = NumMoveBlocks(of.kv.layout);
  const int64_t num_tiles = num_blocks * NumTiles(of.kv.layout);
  const int move = thread.block();
  const MoveWorkspace workspace = MoveWorkspaceOf(of);
  bool finite = true;
  for (int64_t i = thread.lane(); i < num_tiles; i += 32) {
    finite = finite && workspace.not_finite[move * num_tiles + i] == 0;
  }
  const bool all_finite = thread.Ballot(!finite) == 0;
  const WarpHash<Thread> hash(thread, of.tables.secret);
  const auto of_page = [&](const uint64_t* hashes) {
    return hash.Hash(reinterpret_cast<const std::byte*>(hashes + move * num_blocks),
                     sizeof(uint64_t) * static_cast<size_t>(num_blocks));
  };
  const uint64_t source = of_page(workspace.source_hashes);
  const uint64_t target = of_page(workspace.target_hashes);
  if (thread.lane() == 0) {
    const PageMove& done = of.moves[move];
    const bool sound = done.from.tier() == Tier::kHot || source == done.checksum;
    MoveResult result;
    if (all_finite) {
      result.outcome = sound ? MoveResult::Outcome::kOk : MoveResult::Outcome::kCorrupt;
      result.checksum = target;
    } else {
      result.outcome = MoveResult::Outcome::kNotFinite;
    }
    of.results[move] = result;
  }
}

}  // namespace thermocline
