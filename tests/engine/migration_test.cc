// Pages of real bytes and the real Migrator: what goes wrong at each step of a move costs no page
// and no other request. Run under ThreadSanitizer too.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <semaphore>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/core_rig.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/faulty_device.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/test_device.h"

namespace thermocline {
namespace {

using Outcome = MoveResult::Outcome;

std::unique_ptr<Device> MakeDevice(std::function<Status()> on_sync = {}) {
  auto device = std::make_unique<FaultyDevice>(*CpuDevice::Create({.num_threads = 1}));
  if (on_sync) {
    device->on_sync = std::move(on_sync);
  }
  return AsTestDevice(std::move(device));
}

// A pool, its bytes and a migrator, without an engine.
class PageRig {
 public:
  explicit PageRig(int num_units, std::function<Status()> on_sync = {})
      : device_(MakeDevice(std::move(on_sync))),
        pool(MakeBytePool(num_units)),
        bytes(*pool, *device_),
        migrator(std::in_place, *device_, bytes.view()) {}

  static std::vector<uint64_t> States(uint64_t first) {
    std::vector<uint64_t> states(static_cast<size_t>(kPageTokens));
    std::iota(states.begin(), states.end(), first * 1000);
    return states;
  }
  PageId FillPage(uint64_t first, bool finite = true) {
    const PageId page = pool->Allocate(kAnyTier).value();
    const std::vector<uint64_t> states = States(first);
    for (int slot = 0; slot < kPageTokens; ++slot) {
      bytes.Write(page, slot, states[static_cast<size_t>(slot)], finite);
    }
    pool->MarkFull(page, 0);
    return page;
  }
  PageMove Start(PageId page, Tier to) {
    moves.push_back(pool->BeginMove(page, to).value());
    const PageMove move = moves.back().move();
    migrator->Start(std::span(&move, 1));
    return move;
  }
  // Commits what went well, as TierController does.
  Outcome End() {
    const std::vector<FinishedMove> finished = migrator->TakeFinished(/*wait=*/true);
    EXPECT_EQ(finished.size(), 1U);
    const FinishedMove& move = finished.at(0);
    if (move.result.outcome == Outcome::kOk) {
      EXPECT_TRUE(std::move(moves.at(0)).Commit(move.result.checksum));
    }
    moves.clear();  // aborts it if it was not committed
    EXPECT_TRUE(pool->Audit().ok()) << pool->Audit().message();
    return move.result.outcome;
  }

 private:
  std::unique_ptr<Device> device_;

 public:
  std::unique_ptr<PagePool> pool;
  PageBytesModel bytes;
  std::vector<PendingMove> moves;  // started
  std::optional<Migrator> migrator;
};

TEST(Migration, PageKeepsItsValuesThroughEveryTier) {
  PageRig rig(32);
  const PageId page = rig.FillPage(1);
  const PageId other = rig.FillPage(2);
  for (const Tier to : {Tier::kHot, Tier::kWarm, Tier::kWarm, Tier::kCold, Tier::kCold}) {
    rig.Start(page, to);
    EXPECT_EQ(rig.End(), Outcome::kOk);
    EXPECT_EQ(rig.pool->tier(page), to);
    EXPECT_TRUE(rig.bytes.Holds(page, PageRig::States(1)));
    EXPECT_TRUE(rig.bytes.Holds(other, PageRig::States(2)));
  }
}

TEST(Migration, WithoutRoomNoMoveBegins) {
  PageRig rig(8);
  const PageId page = rig.FillPage(1);
  rig.FillPage(2);
  EXPECT_FALSE(rig.pool->BeginMove(page, Tier::kCold).has_value());
  EXPECT_TRUE(rig.bytes.Holds(page, PageRig::States(1)));
  EXPECT_TRUE(rig.pool->Audit().ok());
}

TEST(Migration, FailedCopyLeavesThePageAndCanBeMadeAgain) {
  std::atomic<bool> fails = true;
  PageRig rig(32, [&] { return fails ? Internal("the device is gone") : Status(); });
  const PageId page = rig.FillPage(1);
  for (const Tier from : {Tier::kHot, Tier::kWarm, Tier::kCold}) {
    fails = true;
    rig.Start(page, Tier::kCold);
    EXPECT_EQ(rig.End(), Outcome::kDeviceError);
    EXPECT_EQ(rig.pool->tier(page), from);
    EXPECT_TRUE(rig.bytes.Holds(page, PageRig::States(1)));
    fails = false;
    rig.Start(page, from == Tier::kHot ? Tier::kWarm : Tier::kCold);
    EXPECT_EQ(rig.End(), Outcome::kOk);
  }
}

TEST(Migration, PageThatCannotBeCodedStays) {
  PageRig rig(32);
  const PageId page = rig.FillPage(1, /*finite=*/false);
  for (const Tier to : {Tier::kWarm, Tier::kCold}) {
    rig.Start(page, to);
    EXPECT_EQ(rig.End(), Outcome::kNotFinite);
    EXPECT_EQ(rig.pool->tier(page), Tier::kHot);
  }
}

TEST(Migration, ChangedBitIsFoundByTheNextMove) {
  for (const Tier tier : {Tier::kWarm, Tier::kCold}) {
    for (const Tier to : {tier, Tier::kCold}) {
      PageRig rig(32);
      const PageId page = rig.FillPage(1);
      rig.Start(page, tier);
      EXPECT_EQ(rig.End(), Outcome::kOk);
      rig.bytes.FlipBit(page);
      rig.Start(page, to);
      EXPECT_EQ(rig.End(), Outcome::kCorrupt);
    }
  }
}

// Nobody waits for the copy: the page is given up while the migrator reads it, and its place is not
// handed out before the copy has ended.
TEST(Migration, PageGivenUpInTheMiddleOfItsCopyIsFreedAtItsEnd) {
  for (const bool cached : {false, true}) {
    for (const bool fails : {false, true}) {
      std::binary_semaphore copying(0);
      std::binary_semaphore go_on(0);
      PageRig rig(32, [&] {
        copying.release();
        go_on.acquire();
        return fails ? Internal("the device is gone") : Status();
      });
      const PageId page = rig.FillPage(1);
      const uint64_t bytes_free = rig.pool->arena().bytes_free();
      if (cached) {
        EXPECT_TRUE(rig.pool->SetHash(page, {1, 1}, std::nullopt));
      }
      rig.Start(page, Tier::kCold);
      copying.acquire();
      rig.pool->Release(page, kAnyTier);
      if (cached) {
        rig.pool->Forget(page);  // as eviction does
      }
      EXPECT_LT(rig.pool->arena().bytes_free(), bytes_free);
      const PageId next = rig.FillPage(2);
      EXPECT_NE(next, page);
      go_on.release();
      EXPECT_EQ(rig.End(), fails ? Outcome::kDeviceError : Outcome::kOk);
      EXPECT_TRUE(rig.bytes.Holds(next, PageRig::States(2)));
      rig.pool->Release(next, kAnyTier);
      EXPECT_EQ(rig.pool->arena().bytes_free(), 32 * kArenaUnitBytes);
    }
  }
}

TEST(Migration, MigratorEndsWithMovesInItsQueue) {
  std::counting_semaphore<> copying(0);
  std::counting_semaphore<> go_on(0);
  PageRig rig(64, [&] {
    copying.release();
    go_on.acquire();
    return Status();
  });
  for (uint64_t i = 0; i < 5; ++i) {
    rig.Start(rig.FillPage(i), Tier::kCold);
  }
  copying.acquire();
  const std::jthread others([&] { go_on.release(5); });
  rig.migrator.reset();
  rig.moves.clear();  // aborts them
  for (PageId page = 0; page < 5; ++page) {
    EXPECT_TRUE(rig.bytes.Holds(page, PageRig::States(page)));
  }
  EXPECT_TRUE(rig.pool->Audit().ok());
}

// The engine core on this thread, the migrator on its own.
struct MigrationOptions {
  int num_units = 160;
  KvPolicy policy = KvPolicy::kAdaptive;
  std::function<Status()> on_sync;
};

class MigrationRig {
 public:
  explicit MigrationRig(MigrationOptions options)
      : device_(MakeDevice(std::move(options.on_sync))),
        pool(MakeBytePool(options.num_units)),
        runner(*pool, *device_, kVocab),
        driver_({.max_num_seqs = 8,
                 .max_num_batched_tokens = 64,
                 .max_model_len = 16 * kPageTokens,
                 .prefix_hash_key = 1,
                 .tiers = {.policy = options.policy, .window_tokens = 2 * kPageTokens}},
                *pool, runner),
        core(driver_.core) {}

  Submitted Add(std::vector<TokenId> prompt, int max_tokens, KvFidelity fidelity) {
    Request request = MakeRequest(std::move(prompt), max_tokens);
    request.id = next_id_++;
    request.tenant = request.id % 2 == 0 ? "even" : "odd";
    request.kv_fidelity = fidelity;
    return driver_.Add(std::move(request));
  }
  void Step() {
    driver_.Step();
    const Status audit = pool->Audit();
    EXPECT_TRUE(audit.ok()) << audit.message();
  }
  void RunAll() {
    for (int i = 0; core.has_work() && i < 100000; ++i) {
      Step();
    }
    EXPECT_FALSE(core.has_work());
    EXPECT_EQ(runner.num_wrong_pages(), 0);
    EXPECT_EQ(pool->num_moving(), 0U);
  }

 private:
  std::unique_ptr<Device> device_;
  RequestId next_id_ = 1;

 public:
  std::unique_ptr<PagePool> pool;
  ByteRunner runner;

 private:
  CoreDriver driver_;

 public:
  EngineCore& core;
};

// One sequence cannot be coded, the others cool as if it were not there.
TEST(Migration, ValuesThatCannotBeCodedStayHotAlone) {
  MigrationRig rig({.policy = KvPolicy::kCold});
  std::vector<TokenId> prompt = FiniteTokens(8 * kPageTokens, 1);
  for (size_t i = 0; i < prompt.size(); i += static_cast<size_t>(kPageTokens)) {
    prompt[i] = ByteRunner::kInfiniteToken;
  }
  const auto poisoned = rig.Add(prompt, 40, KvFidelity::kMax);
  const auto other = rig.Add(FiniteTokens(8 * kPageTokens, 2), 40, KvFidelity::kMax);
  rig.RunAll();
  poisoned.ExpectRight();
  other.ExpectRight();
  const auto tokens = [](const Submitted& submitted, Tier tier) {
    return submitted.recording->usage().tier_tokens[static_cast<size_t>(tier)];
  };
  EXPECT_EQ(tokens(poisoned, Tier::kCold) + tokens(poisoned, Tier::kWarm), 0);
  EXPECT_EQ(tokens(other, Tier::kCold), 6 * kPageTokens);
}

TEST(Migration, ChangedBitCostsItsSequenceAComputationAndOthersNothing) {
  MigrationRig rig({.num_units = 110});
  const auto first = rig.Add(FiniteTokens(8 * kPageTokens, 1), 200, KvFidelity::kMax);
  const auto second = rig.Add(FiniteTokens(8 * kPageTokens, 2), 200, KvFidelity::kMax);
  std::optional<PageId> changed;
  while (rig.core.has_work()) {
    rig.Step();
    for (PageId page = 0; !changed && page < rig.pool->page_map().size(); ++page) {
      if (rig.pool->tier(page) == Tier::kWarm && rig.pool->num_moving() == 0) {
        changed = page;
        rig.runner.bytes().FlipBit(page);
        rig.runner.StartMoves(std::vector{
            rig.core.scheduler().tiers().Start(rig.pool->BeginMove(page, Tier::kCold).value())});
        rig.core.scheduler().EndMoves(rig.runner.FinishedMoves(/*wait=*/true));
        EXPECT_EQ(rig.core.stats().scheduler.num_preemptions, 1U);
      }
    }
  }
  rig.RunAll();
  EXPECT_TRUE(changed.has_value());
  EXPECT_EQ(rig.core.stats().tiers.corrupt, 1U);
  first.ExpectRight();
  second.ExpectRight();
}

// Everything at once: prefixes shared, cancellation, preemption, copies that fail, bits that
// change.
TEST(Migration, RandomHistoriesWithFaultsLoseNoPage) {
  uint64_t num_moves = 0;
  uint64_t num_preemptions = 0;
  TierStats failed;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    std::atomic<uint32_t> num_syncs = seed;
    MigrationRig rig(
        {.num_units = 80 + static_cast<int>(random() % 100),
         .policy = seed % 3 == 0 ? KvPolicy::kCold : KvPolicy::kAdaptive,
         .on_sync = [&] { return ++num_syncs % 17 == 0 ? Internal("lost") : Status(); }});
    std::vector<Submitted> kept;
    for (int step = 0; step < 250; ++step) {
      if (random() % 6 == 0) {
        std::vector<TokenId> prompt =
            FiniteTokens(static_cast<int>(random() % 300) + 1, static_cast<TokenId>(random() % 3));
        if (random() % 4 == 0) {
          prompt[random() % prompt.size()] = ByteRunner::kInfiniteToken;
        }
        kept.push_back(rig.Add(std::move(prompt), static_cast<int>(random() % 120) + 1,
                               static_cast<KvFidelity>(random() % 4)));
      }
      if (random() % 15 == 0 && !kept.empty()) {
        const size_t which = random() % kept.size();
        rig.core.Cancel(kept[which].request.id);
        kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(which));
      }
      for (int i = 0; i < 2; ++i) {
        const PageId page = random() % static_cast<uint32_t>(rig.pool->page_map().size());
        if (rig.pool->tier(page) < Tier::kArchive && rig.pool->tier(page) != Tier::kHot &&
            !rig.pool->is_moving(page)) {
          rig.runner.bytes().FlipBit(page);
        }
      }
      rig.Step();
    }
    rig.RunAll();
    for (const Submitted& submitted : kept) {
      submitted.ExpectRight();
    }
    const EngineStats stats = rig.core.stats();
    num_moves += std::accumulate(stats.tiers.moves.begin(), stats.tiers.moves.end(), uint64_t{0});
    num_preemptions += stats.scheduler.num_preemptions;
    failed.corrupt += stats.tiers.corrupt;
    failed.not_finite += stats.tiers.not_finite;
    failed.device_errors += stats.tiers.device_errors;
  }
  // The histories do reach what they are for.
  EXPECT_GT(num_moves, 500U);
  EXPECT_GT(num_preemptions, 10U);
  EXPECT_GT(failed.corrupt, 3U);
  EXPECT_GT(failed.not_finite, 3U);
  EXPECT_GT(failed.device_errors, 10U);
}

TEST(Migration, EngineStopsWithMovesInFlight) {
  std::counting_semaphore<> copying(0);
  EngineParts parts;
  auto device = MakeDevice([&] {
    copying.release();
    return Status();
  });
  parts.tokenizer = std::make_unique<FakeTokenizer>(kVocab);
  parts.pool = MakeBytePool(120);
  parts.runner = std::make_unique<ByteRunner>(*parts.pool, *device, kVocab);
  parts.device = std::move(device);
  parts.scheduler = {.max_num_seqs = 8,
                     .max_num_batched_tokens = 64,
                     .max_model_len = 16 * kPageTokens,
                     .prefix_hash_key = 1,
                     .tiers = {.policy = KvPolicy::kAdaptive, .window_tokens = 2 * kPageTokens}};
  parts.draw_seed = [] { return uint64_t{5}; };
  std::unique_ptr<Engine> engine = Engine::FromParts(std::move(parts));
  std::vector<std::shared_ptr<Recording>> recordings;
  for (TokenId first = 0; first < 8; ++first) {
    recordings.push_back(std::make_shared<Recording>());
    Request request = MakeRequest(FiniteTokens(6 * kPageTokens, first), 300);
    request.kv_fidelity = KvFidelity::kMax;
    ASSERT_TRUE(
        engine->Submit(std::move(request), std::make_unique<RecordingSink>(recordings.back()))
            .ok());
  }
  for (int i = 0; i < 10; ++i) {
    copying.acquire();
  }
  engine.reset();
  for (const std::shared_ptr<Recording>& recording : recordings) {
    EXPECT_EQ(recording->Wait().code(), StatusCode::kCancelled);
  }
}

}  // namespace
}  // namespace thermocline
