// Texts of requests that accept no loss, or little, are those of an engine that keeps all pages
// hot, whatever cools beside them.

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "engine/kv/kv_store.h"
#include "engine/kv/page_io.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/core_rig.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/page_pools.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/test_device.h"

namespace thermocline {
namespace {

// A model whose tokens are others as soon as they are computed from pages of `shows_loss_from`.
class LossRig : public CoreRig {
 public:
  LossRig(int num_units, const TierConfig& tiers, Tier shows_loss_from)
      : CoreRig(MakeTieredPool(num_units), {.max_num_seqs = 8,
                                            .max_num_batched_tokens = 24,
                                            .max_model_len = 100,
                                            .prefix_hash_key = 1,
                                            .tiers = tiers}) {
    runner.shows_loss_from = shows_loss_from;
  }
};

// Conversations that many requests of every fidelity share, on an arena that is always short.
std::vector<Submitted> RunChurn(LossRig& rig, uint32_t seed) {
  std::mt19937 random(seed);
  std::array<std::vector<TokenId>, 3> conversations;
  std::vector<Submitted> kept;
  for (RequestId id = 1; id <= 120; ++id) {
    std::vector<TokenId>& conversation = conversations[random() % conversations.size()];
    if (conversation.empty() || conversation.size() > 60) {
      conversation = Counting(30, static_cast<TokenId>(random() % 2) * 100);
    }
    conversation.push_back(static_cast<TokenId>(random() % 2));
    Request request;
    request.id = id;
    request.prompt = conversation;
    request.num_choices = random() % 4 == 0 ? 3 : 1;
    request.stop = {.max_tokens = static_cast<int>(random() % 30 + 1), .ignore_eos = true};
    request.kv_fidelity = static_cast<KvFidelity>(random() % 4);
    request.num_prompt_logprobs = random() % 10 == 0 ? 0 : -1;
    const std::vector<TokenId> answer = FakeRunner::ExpectedOutput(request.prompt, 0, 9, kVocab);
    conversation.insert(conversation.end(), answer.begin(), answer.end());
    kept.push_back(rig.Add(std::move(request)));
    if (random() % 12 == 0) {
      const size_t which = random() % kept.size();
      rig.core.Cancel(kept[which].request.id);
      kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(which));
    }
    for (auto steps = random() % 12; steps > 0; --steps) {
      rig.Step();
    }
    EXPECT_TRUE(rig.pool->Audit().ok()) << rig.pool->Audit().message();
  }
  rig.RunAll();
  return kept;
}

TEST(Fidelity, UnderChurnTextsAreThoseOfAHotEngine) {
  int num_shared = 0;
  uint64_t num_refused = 0;
  for (const KvFidelity fidelity : {KvFidelity::kExact, KvFidelity::kHigh}) {
    const Tier refused = fidelity == KvFidelity::kExact ? Tier::kWarm : Tier::kCold;
    for (uint32_t seed = 0; seed < 16; ++seed) {
      const TierConfig tiers = seed % 4 == 3   ? SmallTiers(KvPolicy::kCold)
                               : seed % 4 == 2 ? SmallTiers(KvPolicy::kAdaptive, 0.4)
                                               : SmallTiers(KvPolicy::kAdaptive);
      LossRig rig(140 + static_cast<int>(seed) * 10, tiers, refused);
      bool others_differ = false;
      for (const Submitted& submitted : RunChurn(rig, seed)) {
        const Request& request = submitted.request;
        const Usage usage = submitted.recording->usage();
        LossRig hot(400, SmallTiers(KvPolicy::kHot), refused);
        const auto expected = hot.Add(request).recording;
        hot.RunAll();
        for (int choice = 0; choice < request.num_choices; ++choice) {
          const bool same = submitted.recording->tokens(choice) == expected->tokens(choice);
          EXPECT_TRUE(same || request.kv_fidelity > fidelity) << seed << ": " << request.id;
          others_differ |= !same;
        }
        if (request.kv_fidelity == KvFidelity::kExact) {
          EXPECT_FALSE(usage.reused_lossy);
          EXPECT_EQ(usage.tier_tokens, expected->usage().tier_tokens);
        }
        if (request.kv_fidelity == fidelity) {
          for (auto tier = static_cast<size_t>(refused); tier < kNumTiers; ++tier) {
            EXPECT_EQ(usage.tier_tokens[tier], 0);
          }
          num_shared += usage.cached_prompt_tokens > 0 ? 1 : 0;
        }
      }
      EXPECT_TRUE(others_differ) << seed;  // or nothing would be shown
      num_refused += rig.core.stats().tiers.refused;
    }
  }
  EXPECT_GT(num_shared, 100);
  EXPECT_GT(num_refused, 10U);
}

// Demotion goes on beside requests that refuse it.
TEST(Fidelity, RequestsThatAcceptLossCoolBesideThoseThatDoNot) {
  LossRig rig(8 * 25 * 4, SmallTiers(KvPolicy::kAdaptive), Tier::kWarm);
  std::vector<Submitted> exact;
  for (RequestId id = 1; id <= 16; ++id) {
    Request request = MakeRequest(Counting(50, static_cast<TokenId>(id)), 50);
    request.kv_fidelity = id % 4 == 0 ? KvFidelity::kExact : KvFidelity::kMax;
    Submitted submitted = rig.Add(std::move(request));
    if (id % 4 == 0) {
      exact.push_back(std::move(submitted));
    }
  }
  rig.RunAll();
  EXPECT_EQ(exact.size(), 4U);
  for (const Submitted& submitted : exact) {
    submitted.ExpectRight();
  }
  const auto& moves = rig.core.stats().tiers.moves;
  EXPECT_GT(moves[static_cast<size_t>(Tier::kWarm)] + moves[static_cast<size_t>(Tier::kCold)],
            100U);
  EXPECT_EQ(rig.core.stats().scheduler.num_preemptions, 0U);
}

class FidelityStore : public testing::Test {
 protected:
  FidelityStore()
      : directory_(std::filesystem::path(testing::TempDir()) /
                   ("fidelity_" + std::to_string(std::random_device()()))) {}
  ~FidelityStore() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  // What one request costs in a process of its own, over the directory.
  Usage RunProcess(KvPolicy policy, KvFidelity fidelity) {
    EngineParts parts;
    parts.device = MakeTestDevice(1);
    parts.tokenizer = std::make_unique<FakeTokenizer>(kVocab);
    parts.pool = MakeBytePool(160);
    auto runner = std::make_unique<ByteRunner>(*parts.pool, *parts.device, kVocab);
    std::array<uint32_t, kNumTiers> page_bytes{};
    for (size_t tier = 0; tier < kNumTiers; ++tier) {
      page_bytes[tier] = static_cast<uint32_t>(
          parts.pool->arena().units_per_page(static_cast<Tier>(tier)) * kArenaUnitBytes);
    }
    const KvStoreConfig config{
        .directory = directory_.string(), .memory_bytes = 1 << 20, .disk_bytes = uint64_t{1} << 30};
    parts.store = std::make_unique<KvStore>(
        *OpenKvStore(config, {.low = 5, .high = 6}, kSmallLayout, page_bytes, 16 * kPageTokens, 1));
    parts.page_io = std::make_unique<PageIo>(*parts.store->pages, *parts.device,
                                             runner->bytes().view().arena, page_bytes);
    parts.runner = std::move(runner);
    parts.scheduler = {.max_num_seqs = 4,
                       .max_num_batched_tokens = 64,
                       .max_model_len = 16 * kPageTokens,
                       .prefix_hash_key = parts.store->pages->hash_key(),
                       .tiers = {.policy = policy, .window_tokens = kPageTokens}};
    parts.draw_seed = [] { return uint64_t{5}; };
    const std::unique_ptr<Engine> engine = Engine::FromParts(std::move(parts));
    Request request = MakeRequest(Counting(200), 4);
    request.kv_fidelity = fidelity;
    const auto recording = std::make_shared<Recording>();
    EXPECT_TRUE(
        engine->Submit(std::move(request), std::make_unique<RecordingSink>(recording)).ok());
    EXPECT_TRUE(recording->Wait().ok());
    return recording->usage();
  }
  int NumRestoredPages(KvFidelity fidelity) {
    return RunProcess(KvPolicy::kAdaptive, fidelity).restored_prompt_tokens /
           kSmallLayout.page_tokens;
  }

  std::filesystem::path directory_;
};

TEST_F(FidelityStore, ARestartTellsWhatASavedPageHasBeenThrough) {
  RunProcess(KvPolicy::kCold, KvFidelity::kMax);
  EXPECT_EQ(NumRestoredPages(KvFidelity::kHigh), 1);  // the first page, which is warm
  const Usage balanced = RunProcess(KvPolicy::kAdaptive, KvFidelity::kBalanced);
  EXPECT_EQ(balanced.restored_prompt_tokens, 6 * kSmallLayout.page_tokens);
  EXPECT_TRUE(balanced.reused_lossy);
}

TEST_F(FidelityStore, ExactPagesTakeThePlaceOfLossyOnes) {
  RunProcess(KvPolicy::kCold, KvFidelity::kMax);
  EXPECT_EQ(NumRestoredPages(KvFidelity::kExact), 0);
  EXPECT_EQ(NumRestoredPages(KvFidelity::kExact), 6);
  EXPECT_FALSE(RunProcess(KvPolicy::kAdaptive, KvFidelity::kBalanced).reused_lossy);
}

}  // namespace
}  // namespace thermocline
