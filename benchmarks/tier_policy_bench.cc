// What the choice of pages to demote costs the engine thread, by page: 16 sequences that together
// read 16K and 65K pages, whose attention energies are random.

#include <benchmark/benchmark.h>

#include <array>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/base/check.h"
#include "scheduler/page_pool.h"
#include "scheduler/tier_controller.h"
#include "scheduler/tier_policies.h"

namespace thermocline {
namespace {

constexpr size_t kNumSequences = 16;
constexpr size_t kChunkPages = 8;  // that a sequence takes at once
constexpr uint64_t kStep = 5000;
constexpr uint32_t kHotUnits = 36;
// A page's bytes by tier are in the proportions of SmolLM2-135M's.
constexpr std::array<uint32_t, kNumTiers> kPageBytes = {kHotUnits * 4096, 19 * 4096, 8 * 4096,
                                                        4 * 4096, 0};

// What a policy is shown: the pages of running sequences, taken in chunks by turns.
class Pages {
 public:
  // `cold_in_ten`: of ten pages, so many are cold already.
  Pages(size_t num_pages, unsigned cold_in_ten)
      : pool_({.num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = 64}, kPageBytes,
              (num_pages + num_pages / 8) * kPageBytes[0]),
        tables_(kNumSequences) {
    std::mt19937 random(1);
    for (size_t i = 0; i < num_pages; ++i) {
      const PageId page = pool_.Allocate(kAnyTier).value();
      pool_.MarkFull(page, 0);
      tables_[i / kChunkPages % kNumSequences].push_back(page);
      if (random() % 10 < cold_in_ten) {
        CHECK(pool_.BeginMove(page, Tier::kCold).value().Commit(0));
      }
      PagePool::Heat& heat = pool_.heat(page);
      heat.peak = std::exp(-static_cast<float>(random() % 1000) / 100);
      // An energy is a part of 1 that all pages of a sequence share.
      heat.mean = heat.peak * static_cast<float>(kNumSequences) / static_cast<float>(num_pages);
      heat.peak_step = kStep - random() % 2000;
      heat.move_step = random() % kStep;
    }
    for (const std::vector<PageId>& table : tables_) {
      sequences_.push_back({.pages = table, .num_settled = table.size() - 4});
    }
  }

  PagePool& pool() { return pool_; }
  const std::vector<SequencePages>& sequences() const { return sequences_; }

 private:
  PagePool pool_;
  std::vector<std::vector<PageId>> tables_;
  std::vector<SequencePages> sequences_;
};

void CountPages(benchmark::State& state) {
  using benchmark::Counter;
  state.counters["time_per_page"] =
      Counter(static_cast<double>(state.range(0)) * static_cast<double>(state.iterations()),
              Counter::kIsRate | Counter::kInvert);
}

void Choose(benchmark::State& state, unsigned cold_in_ten, double budget,
            const TierDemand& demand) {
  Pages pages(static_cast<size_t>(state.range(0)), cold_in_ten);
  AdaptivePolicy policy(budget);
  for (auto _ : state) {
    benchmark::DoNotOptimize(policy.Propose(pages.pool(), pages.sequences(), demand));
  }
  CountPages(state);
}

// The next step finds too few hot pages, and all are hot.
void ChooseUrgent(benchmark::State& state) {
  Choose(state, 0, 0,
         {.step = kStep, .bytes_wanted = 64 * uint64_t{kPageBytes[0]}, .urgent = true});
}

// The arena is a twentieth above its mark, and most of it is cold.
void ChooseInBackground(benchmark::State& state) {
  const auto num_pages = static_cast<uint64_t>(state.range(0));
  Choose(state, 8, 0, {.step = kStep, .bytes_wanted = num_pages * kPageBytes[0] / 20});
}

// Each sequence is held to half of its bytes, and all are hot: the most that one call takes.
void ChooseForBudget(benchmark::State& state) {
  Choose(state, 0, 0.5, {.step = kStep, .urgent = true});
}

// Each sequence has what it may.
void ChooseWithinBudget(benchmark::State& state) {
  Choose(state, 9, 0.5, {.step = kStep, .urgent = true});
}

// A step that needs no move, while as many pages again are cached.
void ProposeNothing(benchmark::State& state) {
  Pages pages(static_cast<size_t>(state.range(0)), 8);
  PagePool& pool = pages.pool();
  for (uint64_t i = 1; i <= static_cast<uint64_t>(state.range(0)); ++i) {
    const PageId page = pool.Allocate(kAnyTier).value();
    pool.MarkFull(page, 0);
    CHECK(pool.SetHash(page, {i, i}, std::nullopt));
    CHECK(pool.BeginMove(page, Tier::kCold).value().Commit(0));
    pool.Release(page, kAnyTier);
  }
  TierController controller({.policy = KvPolicy::kAdaptive}, pool);
  for (auto _ : state) {
    benchmark::DoNotOptimize(controller.Propose(pages.sequences(), kStep, 1).moves.size());
  }
  CountPages(state);
}

BENCHMARK(ChooseUrgent)->Arg(16384)->Arg(65536);
BENCHMARK(ChooseInBackground)->Arg(16384)->Arg(65536);
BENCHMARK(ChooseForBudget)->Arg(16384)->Arg(65536);
BENCHMARK(ChooseWithinBudget)->Arg(16384)->Arg(65536);
BENCHMARK(ProposeNothing)->Arg(16384)->Arg(65536);

}  // namespace
}  // namespace thermocline
