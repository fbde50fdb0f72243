#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/kv/kv_cache.h"
#include "engine/kv/migrator.h"
#include "engine/runner.h"
#include "kernels/device.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Real pages of a small model: hot ones take four units of the arena, warm three, cold one.
inline constexpr KvLayout kSmallLayout = {
    .num_layers = 1, .num_kv_heads = 2, .head_dim = 64, .page_tokens = 32};

inline constexpr int kPageTokens = kSmallLayout.page_tokens;

std::unique_ptr<PagePool> MakeBytePool(int num_units);

// The bytes behind a pool, in the engine's own formats. K and V of a position are random vectors
// that its state names, so that a page that is lost, mixed up or overwritten is far from what it
// should be, and one that has cooled is near it.
class PageBytesModel {
 public:
  PageBytesModel(const PagePool& pool, Device& device);

  void Write(PageId page, int slot, uint64_t state, bool finite = true) {
    Stage(page, slot, state, finite);
    Sync();
  }
  // Write in two parts, for many at once: the pages have it after the next Sync.
  void Stage(PageId page, int slot, uint64_t state, bool finite);
  void Sync();
  // Whether the page's positions [0, states.size()) are what these states name, as near as its tier
  // keeps them.
  bool Holds(PageId page, std::span<const uint64_t> states);
  // Changes one bit of the codes of a page that is not hot.
  void FlipBit(PageId page);
  // Codecs without mean keys, while no page is cold.
  void SetFormats(KvFormats formats);
  KvCacheView view() const { return cache_.view(pool_.page_map()); }

 private:
  std::byte* BlockOf(PageId page, int head) const { return view().block(page, 0, head); }

  const PagePool& pool_;
  std::unique_ptr<Stream> stream_;
  std::deque<std::vector<uint16_t>> staged_;  // each a K or a V
  KvCache cache_;
};

// FakeRunner's model, its tokens too, with pages of real bytes and the real Migrator on a thread of
// its own. In each step it reads one page of each sequence, another one each time.
class ByteRunner : public Runner {
 public:
  // The token at whose position a value is infinite, so that its page cannot be coded.
  static constexpr TokenId kInfiniteToken = 499;

  ByteRunner(const PagePool& pool, Device& device, int vocab_size);

  Result<RunResult> Run(const StepPlan& plan) override;
  void StartMoves(std::span<const PageMove> moves) override { migrator_.Start(moves); }
  std::vector<FinishedMove> FinishedMoves(bool wait) override {
    return migrator_.TakeFinished(wait);
  }
  double move_seconds() const override { return migrator_.busy_seconds(); }

  PageBytesModel& bytes() { return bytes_; }
  // Between steps, while nothing moves and no page is cold.
  void SetFormats(KvFormats formats) {
    bytes_.SetFormats(std::move(formats));
    migrator_.SetView(bytes_.view());
  }
  int num_wrong_pages() const { return num_wrong_pages_; }  // seen so far

 private:
  void Compute(const ScheduledSequence& scheduled);

  const PagePool& pool_;
  int vocab_size_;
  PageBytesModel bytes_;
  std::vector<uint64_t> states_;  // of one sequence
  size_t num_runs_ = 0;
  int num_wrong_pages_ = 0;
  Migrator migrator_;  // last: its thread reads the bytes
};

// Tokens that count up and begin anew before kInfiniteToken.
inline std::vector<TokenId> FiniteTokens(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    tokens[static_cast<size_t>(i)] = (first + i) % ByteRunner::kInfiniteToken;
  }
  return tokens;
}

}  // namespace thermocline
