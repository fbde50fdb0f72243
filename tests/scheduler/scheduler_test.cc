#include "scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "tests/testing/fake_model.h"
#include "tests/testing/page_pools.h"

namespace thermocline {
namespace {

constexpr int kVocab = 1000;

std::vector<TokenId> Counting(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::shared_ptr<const Request> MakeRequest(RequestId id, std::vector<TokenId> prompt,
                                           int max_tokens = 4, int num_choices = 1,
                                           std::string tenant = "default") {
  Request request;
  request.id = id;
  request.tenant = std::move(tenant);
  request.prompt = std::move(prompt);
  request.num_choices = num_choices;
  request.stop.max_tokens = max_tokens;
  return std::make_shared<const Request>(std::move(request));
}

// A scheduler, its pool and a model, and what came out for each choice.
class Rig {
 public:
  explicit Rig(SchedulerConfig config, int num_pages)
      : pool(MakePool(num_pages)), scheduler(config, *pool), runner(*pool, kVocab) {}

  Status Add(const std::shared_ptr<const Request>& request) {
    requests[request->id] = request;
    return scheduler.Add(request);
  }

  // One step; the plan it ran, as (request, tokens).
  std::vector<std::pair<RequestId, int>> Step() {
    const std::vector<const Sequence*> decoding = Decoding();
    const StepPlan plan = scheduler.Schedule();
    const RunResult result = runner.Run(plan).value();
    std::vector<std::pair<RequestId, int>> ran;
    std::vector<std::pair<RequestId, int>> ended;
    num_decoding = num_prompt_tokens = 0;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const Sequence& sequence = *plan.sequences[i].sequence;
      ran.emplace_back(sequence.request->id, plan.sequences[i].num_tokens);
      const bool decodes = std::find(decoding.begin(), decoding.end(), &sequence) != decoding.end();
      num_decoding += decodes ? 1 : 0;
      num_prompt_tokens += decodes ? 0 : plan.sequences[i].num_tokens;
      auto& text = output[{sequence.request->id, sequence.choice}];
      text.insert(text.end(), result.step.accepted[i].begin(), result.step.accepted[i].end());
      if (static_cast<int>(text.size()) >= sequence.request->stop.max_tokens) {
        ended.emplace_back(sequence.request->id, sequence.choice);
      }
    }
    scheduler.Update(plan, result.step);
    for (const auto& [id, choice] : ended) {
      scheduler.Finish(id, choice);
    }
    return ran;
  }

  // Those that run and want their next token only.
  std::vector<const Sequence*> Decoding() const {
    std::vector<const Sequence*> decoding = scheduler.RunningSequences();
    std::erase_if(decoding, [](const Sequence* sequence) { return sequence->num_wanted() > 1; });
    return decoding;
  }

  void RunAll() {
    for (int i = 0; i < 10000 && scheduler.has_work(); ++i) {
      Step();
    }
    ASSERT_FALSE(scheduler.has_work());
  }

  void ExpectWholeOutput(RequestId id) {
    const Request& request = *requests.at(id);
    for (int choice = 0; choice < request.num_choices; ++choice) {
      EXPECT_EQ((output[{id, choice}]),
                FakeRunner::ExpectedOutput(request.prompt, choice, request.stop.max_tokens, kVocab))
          << "request " << id << " choice " << choice;
    }
  }

  void ExpectNoPageInUse() {
    EXPECT_EQ(pool->num_free() + pool->num_evictable(), pool->num_pages());
    EXPECT_TRUE(pool->Audit().ok()) << pool->Audit().message();
  }

  std::unique_ptr<PagePool> pool;
  Scheduler scheduler;
  FakeRunner runner;
  std::map<RequestId, std::shared_ptr<const Request>> requests;
  std::map<std::pair<RequestId, int>, std::vector<TokenId>> output;
  // Of the last step.
  size_t num_decoding = 0;
  int num_prompt_tokens = 0;
};

SchedulerConfig Config(int max_num_batched_tokens = 16) {
  return {.max_num_seqs = 8,
          .max_num_batched_tokens = max_num_batched_tokens,
          .max_model_len = 64,
          .max_num_queued_reqs = 4,
          .prefix_hash_key = 1};
}

SchedulerConfig Capped(int cap) {
  SchedulerConfig config = Config(16);
  config.max_num_prefill_tokens_while_decoding = cap;
  return config;
}

using Ran = std::vector<std::pair<RequestId, int>>;

TEST(Scheduler, LongPromptIsComputedInChunks) {
  Rig rig(Config(16), 16);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(40))).ok());
  EXPECT_EQ(rig.Step(), (Ran{{1, 16}}));
  EXPECT_EQ(rig.Step(), (Ran{{1, 16}}));
  EXPECT_EQ(rig.Step(), (Ran{{1, 8}}));
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}}));
  rig.RunAll();
  rig.ExpectWholeOutput(1);
}

TEST(Scheduler, DecodingComesBeforePrompts) {
  Rig rig(Config(16), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(3), 10)).ok());
  rig.Step();
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(40, 100))).ok());
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}, {2, 15}}));
}

TEST(Scheduler, LongPromptLeavesRoomForAShortOne) {
  Rig rig(Config(16), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(40))).ok());
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(4, 100))).ok());
  EXPECT_EQ(rig.Step(), (Ran{{1, 8}, {2, 4}}));
}

TEST(Scheduler, PromptTakesTheWholeStepOnlyWhenNobodyDecodes) {
  Rig rig(Capped(4), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(9), 3)).ok());
  EXPECT_EQ(rig.Step(), (Ran{{1, 9}}));
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(40, 100))).ok());
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}, {2, 4}}));
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}, {2, 4}}));  // the last of the first request
  EXPECT_EQ(rig.Step(), (Ran{{2, 16}}));
  EXPECT_EQ(rig.Step(), (Ran{{2, 16}}));
  rig.RunAll();
  rig.ExpectWholeOutput(2);
}

TEST(Scheduler, WhileOneDecodesPromptsAreComputedOneAfterAnother) {
  Rig rig(Capped(4), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(3), 10)).ok());
  rig.Step();
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(6, 100))).ok());
  ASSERT_TRUE(rig.Add(MakeRequest(3, Counting(6, 200))).ok());
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}, {2, 4}}));
  EXPECT_EQ(rig.scheduler.stats().num_waiting, 1);  // without pages until it gets tokens
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}, {2, 2}, {3, 2}}));
  EXPECT_EQ(rig.Step(), (Ran{{1, 1}, {2, 1}, {3, 4}}));
}

TEST(Scheduler, WhoDecodesGetsATokenInEachStepAndPromptsGoOn) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Rig rig(Capped(static_cast<int>(random() % 6) + 1), 8 * 16);  // room for all that may run
    for (RequestId id = 1; id <= 100; ++id) {
      const auto first = static_cast<TokenId>(random() % 900);
      const auto request = MakeRequest(id, Counting(static_cast<int>(random() % 50) + 2, first),
                                       static_cast<int>(random() % 12) + 2);
      const Status added = rig.Add(request);
      ASSERT_TRUE(added.ok() || added.code() == StatusCode::kResourceExhausted);
      const SchedulerStats before = rig.scheduler.stats();
      const size_t num_decoding = rig.Decoding().size();
      rig.Step();
      EXPECT_EQ(rig.num_decoding, num_decoding) << "request " << id;
      const bool runs_prompt = static_cast<size_t>(before.num_running) > num_decoding;
      if (runs_prompt || (before.num_waiting > 0 && before.num_running < 8)) {
        EXPECT_GT(rig.num_prompt_tokens, 0) << "request " << id;
      }
    }
    EXPECT_EQ(rig.scheduler.stats().num_preemptions, 0U);
    rig.RunAll();
  }
}

TEST(Scheduler, QueueIsBounded) {
  Rig rig(Config(), 16);
  for (RequestId id = 1; id <= 4; ++id) {
    ASSERT_TRUE(rig.Add(MakeRequest(id, Counting(60))).ok());
  }
  EXPECT_EQ(rig.Add(MakeRequest(5, Counting(3))).code(), StatusCode::kResourceExhausted);
}

TEST(Scheduler, PromptThatCanNeverFitIsRefused) {
  Rig rig(Config(), 16);
  EXPECT_TRUE(rig.Add(MakeRequest(1, Counting(63))).ok());
  EXPECT_EQ(rig.Add(MakeRequest(2, Counting(64))).code(), StatusCode::kInvalidArgument);
}

TEST(Scheduler, AdmissionReservesTheWholePrompt) {
  Rig rig(Config(8), 16);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(40))).ok());       // 10 of 16 pages, 2 of them now
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(28, 100))).ok());  // 7 pages: not beside it
  EXPECT_EQ(rig.Step(), (Ran{{1, 4}}));  // half of the budget, for one waits behind it
  EXPECT_EQ(rig.scheduler.stats().num_waiting, 1);
  rig.RunAll();
  EXPECT_EQ(rig.scheduler.stats().num_preemptions, 0U);
  rig.ExpectWholeOutput(2);
}

TEST(Scheduler, PreemptedSequencesContinueWithTheSameOutput) {
  Rig rig(Config(16), 16);
  for (RequestId id = 1; id <= 3; ++id) {
    ASSERT_TRUE(rig.Add(MakeRequest(id, Counting(9, static_cast<TokenId>(100 * id)), 40)).ok());
  }
  rig.RunAll();
  EXPECT_GT(rig.scheduler.stats().num_preemptions, 0U);
  for (RequestId id = 1; id <= 3; ++id) {
    rig.ExpectWholeOutput(id);
  }
  rig.ExpectNoPageInUse();
}

TEST(Scheduler, OldestSequenceIsNeverPreempted) {
  Rig rig(Config(16), 16);
  for (RequestId id = 1; id <= 3; ++id) {
    ASSERT_TRUE(rig.Add(MakeRequest(id, Counting(9, static_cast<TokenId>(100 * id)), 40)).ok());
  }
  int steps_of_oldest = 0;
  while (rig.output[{1, 0}].size() < 40U) {
    const Ran ran = rig.Step();
    ASSERT_TRUE(std::any_of(ran.begin(), ran.end(), [](const auto& r) { return r.first == 1; }));
    ++steps_of_oldest;
  }
  EXPECT_LE(steps_of_oldest, 42);
}

TEST(Scheduler, ChoicesShareThePagesOfTheirPrompt) {
  SchedulerConfig config = Config(64);
  config.enable_prefix_caching = false;
  Rig rig(config, 16);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(40), 3, 4)).ok());
  rig.Step();  // the first choice computes the prompt
  rig.Step();  // the others their last, part page
  // 10 shared pages, and one each for what differs (40 is a whole number of pages).
  EXPECT_LE(rig.pool->num_pages() - rig.pool->num_free(), 10U + 4U);
  EXPECT_EQ(rig.scheduler.stats().num_running, 4);
  rig.RunAll();
  rig.ExpectWholeOutput(1);
  rig.ExpectNoPageInUse();
}

TEST(Scheduler, SecondRequestStartsPastTheKnownPrefix) {
  Rig rig(Config(64), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(20))).ok());
  rig.RunAll();
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(20))).ok());
  EXPECT_EQ(rig.Step(), (Ran{{2, 4}}));  // 16 of 20 from the cache; the last is always computed
  rig.RunAll();
  rig.ExpectWholeOutput(2);
  EXPECT_EQ(rig.scheduler.stats().prefix_hit_tokens, 16U);
}

TEST(Scheduler, OtherTenantsPrefixIsNotReused) {
  Rig rig(Config(64), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(20), 4, 1, "a")).ok());
  rig.RunAll();
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(20), 4, 1, "b")).ok());
  EXPECT_EQ(rig.Step(), (Ran{{2, 20}}));
}

TEST(Scheduler, CancelFreesPagesAtOnceInAnyPhase) {
  Rig rig(Config(16), 32);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(5), 20)).ok());        // will be decoding
  ASSERT_TRUE(rig.Add(MakeRequest(2, Counting(50, 100), 20)).ok());  // in its prompt
  rig.Step();
  ASSERT_TRUE(rig.Add(MakeRequest(3, Counting(60, 200))).ok());  // waiting
  for (RequestId id = 1; id <= 3; ++id) {
    rig.scheduler.Cancel(id);
  }
  rig.scheduler.Cancel(99);  // unknown ids are ignored
  EXPECT_FALSE(rig.scheduler.has_work());
  rig.ExpectNoPageInUse();
}

TEST(Scheduler, LeaderMayEndBeforeItsSiblingsStart) {
  SchedulerConfig config = Config(64);
  config.max_num_seqs = 1;  // siblings wait for a place, and the leader is gone by then
  Rig rig(config, 16);
  ASSERT_TRUE(rig.Add(MakeRequest(1, Counting(21), 3, 3)).ok());
  rig.RunAll();
  rig.ExpectWholeOutput(1);
  rig.ExpectNoPageInUse();
}

// Everything at once on a small arena: shared prefixes, two tenants, choices, cancellation.
TEST(Scheduler, LongRandomHistoriesLoseNoPageAndNoToken) {
  uint64_t num_preemptions = 0;
  uint64_t num_hits = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    SchedulerConfig config = Config(static_cast<int>(random() % 20) + 1);
    config.max_num_seqs = static_cast<int>(random() % 6) + 1;
    config.enable_prefix_caching = random() % 4 != 0;
    const int cap = static_cast<int>(random() % 6);
    config.max_num_prefill_tokens_while_decoding = cap;
    Rig rig(config, 16 + static_cast<int>(random() % 6));
    RequestId next_id = 1;
    std::vector<RequestId> kept;
    for (int step = 0; step < 300; ++step) {
      if (random() % 4 == 0) {
        std::vector<TokenId> prompt =
            Counting(static_cast<int>(random() % 40) + 1, static_cast<TokenId>(random() % 2) * 500);
        if (random() % 3 == 0) {
          prompt.back() = static_cast<TokenId>(random() % kVocab);
        }
        const int max_tokens = static_cast<int>(random() % 20) + 1;
        const auto request =
            MakeRequest(next_id++, prompt, max_tokens, static_cast<int>(random() % 3) + 1,
                        random() % 2 == 0 ? "a" : "b");
        if (rig.Add(request).ok()) {
          kept.push_back(request->id);
        }
      }
      if (random() % 25 == 0 && !kept.empty()) {
        const size_t which = random() % kept.size();
        rig.scheduler.Cancel(kept[which]);
        kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(which));
      }
      rig.Step();
      ASSERT_LE(rig.runner.max_tokens(), config.max_num_batched_tokens);
      if (cap > 0 && rig.num_decoding > 0) {
        ASSERT_LE(rig.num_prompt_tokens, cap);
      }
      const Status audit = rig.pool->Audit();
      ASSERT_TRUE(audit.ok()) << audit.message();
    }
    rig.RunAll();
    for (const RequestId id : kept) {
      rig.ExpectWholeOutput(id);
    }
    rig.ExpectNoPageInUse();
    num_preemptions += rig.scheduler.stats().num_preemptions;
    num_hits += rig.scheduler.stats().prefix_hit_tokens;
  }
  EXPECT_GT(num_preemptions, 100U);  // the histories do reach what they are for
  EXPECT_GT(num_hits, 1000U);
}

}  // namespace
}  // namespace thermocline
