#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <new>
#include <random>
#include <semaphore>
#include <thread>
#include <utility>

#include "engine/engine_parts.h"
#include "engine/kv_snapshot.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/page_pools.h"
#include "tests/testing/recording_sink.h"

namespace thermocline {
namespace {

struct EngineOptions {
  int num_pages = 32;
  SchedulerConfig scheduler = {.max_num_seqs = 4,
                               .max_num_batched_tokens = 16,
                               .max_model_len = 64,
                               .max_num_queued_reqs = 8,
                               .prefix_hash_key = 1};
};

// An engine over a fake model; the runner may be changed before the first request.
class EngineRig {
 public:
  explicit EngineRig(const EngineOptions& options = {}) {
    EngineParts parts;
    parts.tokenizer = std::make_unique<FakeTokenizer>(kVocab);
    parts.pool = MakePool(options.num_pages);
    auto fake = std::make_unique<FakeRunner>(*parts.pool, kVocab);
    runner = fake.get();
    parts.runner = std::move(fake);
    parts.scheduler = options.scheduler;
    parts.draw_seed = [] { return uint64_t{5}; };
    engine = Engine::FromParts(std::move(parts));
  }

  struct Submitted {
    Result<RequestId> id;
    std::shared_ptr<Recording> recording;
  };
  Submitted Submit(Request request) const {
    auto recording = std::make_shared<Recording>();
    auto sink = std::make_unique<RecordingSink>(recording);
    return {engine->Submit(std::move(request), std::move(sink)), recording};
  }

  void ExpectNoPageInUse() const {
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.arena.num_free_pages + stats.arena.num_cached_pages, stats.arena.num_pages);
    EXPECT_EQ(stats.scheduler.num_running + stats.scheduler.num_waiting, 0);
  }

  FakeRunner* runner = nullptr;  // the engine's; null after it
  std::unique_ptr<Engine> engine;
};

TEST(Engine, GivesEveryTokenThenTheEndOnce) {
  const EngineRig rig;
  const auto prompt = Counting(30);
  const auto submitted = rig.Submit(MakeRequest(prompt, 12));
  ASSERT_TRUE(submitted.recording->Wait().ok());
  EXPECT_EQ(submitted.recording->tokens(), FakeRunner::ExpectedOutput(prompt, 0, 12, kVocab));
  EXPECT_EQ(submitted.recording->usage().prompt_tokens, 30);
  EXPECT_EQ(submitted.recording->usage().completion_tokens, 12);
  rig.ExpectNoPageInUse();
}

TEST(Engine, UsageTellsCachedPromptTokens) {
  const EngineRig rig;
  ASSERT_TRUE(rig.Submit(MakeRequest(Counting(30), 2)).recording->Wait().ok());
  const auto again = rig.Submit(MakeRequest(Counting(30), 2));
  ASSERT_TRUE(again.recording->Wait().ok());
  EXPECT_EQ(again.recording->usage().cached_prompt_tokens, 28);
}

TEST(Engine, ChoicesAreGeneratedEach) {
  const EngineRig rig;
  const auto prompt = Counting(10);
  const auto submitted = rig.Submit(MakeRequest(prompt, 6, 3));
  ASSERT_TRUE(submitted.recording->Wait().ok());
  for (int choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(submitted.recording->tokens(choice),
              FakeRunner::ExpectedOutput(prompt, choice, 6, kVocab));
  }
  EXPECT_EQ(submitted.recording->usage().completion_tokens, 18);
}

// However the prompt is cut into chunks and however many read it.
TEST(Engine, WhatIsAskedAboutAPromptIsGivenOnce) {
  for (const int num_choices : {1, 2, 3}) {
    const EngineRig rig;
    const auto prompt = Counting(40);
    Request request = MakeRequest(prompt, 6, num_choices);
    request.num_prompt_logprobs = 0;
    const auto submitted = rig.Submit(std::move(request));
    ASSERT_TRUE(submitted.recording->Wait().ok());
    std::vector<TokenId> tokens;
    for (const TokenLogprobs& logprobs : submitted.recording->prompt_logprobs()) {
      tokens.push_back(logprobs.token);
    }
    EXPECT_EQ(tokens, Counting(39, 1)) << num_choices << " choices";
  }
}

TEST(Engine, RefusesWhatCanNeverFit) {
  const EngineRig rig;
  EXPECT_EQ(rig.Submit(MakeRequest({}, 1)).id.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.Submit(MakeRequest(Counting(64), 1)).id.status().code(),
            StatusCode::kInvalidArgument);
}

TEST(Engine, OutputEndsAtTheModelsLength) {
  const EngineRig rig;
  const auto submitted = rig.Submit(MakeRequest(Counting(60), 100));
  ASSERT_TRUE(submitted.recording->Wait().ok());
  EXPECT_EQ(submitted.recording->tokens().size(), 4U);
}

// Steps wait for a permit, so that a test knows in which phase a request is.
struct Gate {
  std::counting_semaphore<> permits{0};
  std::counting_semaphore<> started{0};
  void Install(FakeRunner& runner) {
    runner.on_run = [this](const StepPlan&) {
      started.release();
      permits.acquire();
      return Status();
    };
  }
};

TEST(Engine, CancelledWhileItsPromptIsComputed) {
  Gate gate;
  const EngineRig rig;
  gate.Install(*rig.runner);
  const auto submitted = rig.Submit(MakeRequest(Counting(60), 4));  // four chunks
  gate.started.acquire();
  rig.engine->Cancel(*submitted.id);
  gate.permits.release();  // that step ends, no other starts
  EXPECT_EQ(submitted.recording->Wait().code(), StatusCode::kCancelled);
  EXPECT_EQ(rig.runner->num_runs(), 1);
  rig.ExpectNoPageInUse();
}

std::shared_ptr<const KvSnapshot> Ask(Engine& engine) {
  std::promise<std::shared_ptr<const KvSnapshot>> promise;
  engine.QueryKv([&promise](std::shared_ptr<const KvSnapshot> snapshot) {
    promise.set_value(std::move(snapshot));
  });
  return promise.get_future().get();
}

TEST(Engine, AnIdleEngineAnswersWhatItsPagesAre) {
  const EngineRig rig;
  EXPECT_TRUE(Ask(*rig.engine)->sequences.empty());
  ASSERT_TRUE(rig.Submit(MakeRequest(Counting(30), 2)).recording->Wait().ok());
  const auto snapshot = Ask(*rig.engine);
  EXPECT_TRUE(snapshot->sequences.empty());
  EXPECT_EQ(snapshot->stats.arena.num_cached_pages, 7U);  // of four tokens
  EXPECT_EQ(snapshot->energy[0].num_unseen, 7U);
}

TEST(Engine, ManyWhoAskDuringAStepShareOneSnapshot) {
  Gate gate;
  const EngineRig rig;
  gate.Install(*rig.runner);
  Request request = MakeRequest(Counting(10), 50);
  request.label = "mine";
  const auto submitted = rig.Submit(std::move(request));
  gate.started.acquire();
  std::vector<std::promise<std::shared_ptr<const KvSnapshot>>> promises(3);
  for (auto& promise : promises) {
    rig.engine->QueryKv([&promise](std::shared_ptr<const KvSnapshot> snapshot) {
      promise.set_value(std::move(snapshot));
    });
  }
  gate.permits.release(2);
  const auto snapshot = promises[0].get_future().get();
  EXPECT_EQ(promises[1].get_future().get(), snapshot);
  EXPECT_EQ(promises[2].get_future().get(), snapshot);
  ASSERT_EQ(snapshot->sequences.size(), 1U);
  EXPECT_EQ(snapshot->sequences[0].label, "mine");
  EXPECT_EQ(snapshot->sequences[0].pages.size(), 3U);
  EXPECT_EQ(snapshot->sequences[0].num_tokens, 11);
  gate.permits.release(1000);
  EXPECT_TRUE(submitted.recording->Wait().ok());
}

TEST(Engine, CancelledWhileDecoding) {
  Gate gate;
  const EngineRig rig;
  gate.Install(*rig.runner);
  const auto submitted = rig.Submit(MakeRequest(Counting(3), 50));
  gate.permits.release(5);
  submitted.recording->WaitForTokens(5);
  rig.engine->Cancel(*submitted.id);
  gate.permits.release();  // the step that may have begun before
  EXPECT_EQ(submitted.recording->Wait().code(), StatusCode::kCancelled);
  EXPECT_LE(submitted.recording->tokens().size(), 6U);
  rig.ExpectNoPageInUse();
  gate.permits.release(1000);
}

TEST(Engine, CancelledWhileWaiting) {
  Gate gate;
  EngineOptions options;
  options.scheduler.max_num_seqs = 1;
  const EngineRig rig(options);
  gate.Install(*rig.runner);
  const auto running = rig.Submit(MakeRequest(Counting(3), 3));
  gate.started.acquire();
  const auto waiting = rig.Submit(MakeRequest(Counting(3, 50), 3));
  rig.engine->Cancel(*waiting.id);
  gate.permits.release(100);
  EXPECT_EQ(waiting.recording->Wait().code(), StatusCode::kCancelled);
  EXPECT_TRUE(waiting.recording->tokens().empty());
  EXPECT_TRUE(running.recording->Wait().ok());
}

TEST(Engine, FullQueueIsAnErrorAtOnce) {
  Gate gate;
  EngineOptions options;
  options.scheduler.max_num_seqs = 1;
  options.scheduler.max_num_queued_reqs = 2;
  const EngineRig rig(options);
  gate.Install(*rig.runner);
  // One runs and two wait, though the engine has not looked yet.
  const auto running = rig.Submit(MakeRequest(Counting(3), 3));
  const auto second = rig.Submit(MakeRequest(Counting(3), 3));
  const auto third = rig.Submit(MakeRequest(Counting(3), 3));
  const auto fourth = rig.Submit(MakeRequest(Counting(3), 3));
  EXPECT_EQ(fourth.id.status().code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(fourth.recording->done());  // the sink of a refused request is never called
  gate.permits.release(100);
  EXPECT_TRUE(running.recording->Wait().ok());
  EXPECT_TRUE(second.recording->Wait().ok());
  EXPECT_TRUE(third.recording->Wait().ok());
  EXPECT_EQ(rig.engine->max_requests(), 3);
}

TEST(Engine, WhoeverWaitsKeepsItsPlaceInTheQueue) {
  Gate gate;
  EngineOptions options;
  options.scheduler.max_num_seqs = 1;
  options.scheduler.max_num_queued_reqs = 1;
  const EngineRig rig(options);
  gate.Install(*rig.runner);
  const auto running = rig.Submit(MakeRequest(Counting(3), 8));
  const auto waiting = rig.Submit(MakeRequest(Counting(3), 3));
  gate.permits.release(4);
  running.recording->WaitForTokens(3);  // the engine has counted who runs and who waits
  EXPECT_EQ(rig.Submit(MakeRequest(Counting(3), 3)).id.status().code(),
            StatusCode::kResourceExhausted);
  gate.permits.release(100);
  EXPECT_TRUE(running.recording->Wait().ok());
  EXPECT_TRUE(waiting.recording->Wait().ok());
}

TEST(Engine, WithoutAQueueRequestsRunOrAreRefused) {
  Gate gate;
  EngineOptions options;
  options.scheduler.max_num_seqs = 2;
  options.scheduler.max_num_queued_reqs = 0;
  const EngineRig rig(options);
  gate.Install(*rig.runner);
  const auto both = rig.Submit(MakeRequest(Counting(3), 2, /*num_choices=*/2));
  ASSERT_TRUE(both.id.ok()) << both.id.status().message();
  EXPECT_FALSE(rig.Submit(MakeRequest(Counting(3), 2)).id.ok());
  gate.permits.release(1000);
  EXPECT_TRUE(both.recording->Wait().ok());
  const auto next = rig.Submit(MakeRequest(Counting(3), 2));
  ASSERT_TRUE(next.id.ok()) << next.id.status().message();
  EXPECT_TRUE(next.recording->Wait().ok());
}

TEST(Engine, PreemptionChangesNoOutput) {
  EngineOptions options;
  options.num_pages = 17;
  const EngineRig rig(options);
  std::vector<EngineRig::Submitted> all;
  for (int i = 0; i < 4; ++i) {
    all.push_back(rig.Submit(MakeRequest(Counting(9, 100 * i), 45)));
  }
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(all[static_cast<size_t>(i)].recording->Wait().ok());
    EXPECT_EQ(all[static_cast<size_t>(i)].recording->tokens(),
              FakeRunner::ExpectedOutput(Counting(9, 100 * i), 0, 45, kVocab));
  }
  EXPECT_GT(rig.engine->stats().scheduler.num_preemptions, 0U);
  rig.ExpectNoPageInUse();
}

TEST(Engine, FailedSequenceLeavesTheOthersAlone) {
  const EngineRig rig;
  rig.runner->fails = [](const Sequence& sequence) { return sequence.tokens[0] == 7; };
  const auto bad = rig.Submit(MakeRequest(Counting(3, 7), 5));
  const auto good = rig.Submit(MakeRequest(Counting(3, 8), 5));
  EXPECT_EQ(bad.recording->Wait().code(), StatusCode::kInternal);
  EXPECT_TRUE(good.recording->Wait().ok());
  EXPECT_EQ(good.recording->tokens().size(), 5U);
  EXPECT_TRUE(rig.engine->healthy());
  rig.ExpectNoPageInUse();
}

TEST(Engine, FailedDeviceEndsRequestsAndRefusesNewOnes) {
  const EngineRig rig;
  rig.runner->on_run = [](const StepPlan& plan) {
    return plan.step >= 2 ? Internal("out of order") : Status();
  };
  const auto submitted = rig.Submit(MakeRequest(Counting(3), 50));
  const Status status = submitted.recording->Wait();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(status.message().find("out of order"), std::string::npos);
  EXPECT_FALSE(rig.engine->healthy());
  EXPECT_EQ(rig.Submit(MakeRequest(Counting(3), 1)).id.status().code(), StatusCode::kUnavailable);
  rig.ExpectNoPageInUse();
}

TEST(Engine, WithoutHostMemoryRequestsEndAndTheDeviceIsNotBlamed) {
  const EngineRig rig;
  rig.runner->on_run = [](const StepPlan& plan) {
    if (plan.step >= 2) {
      throw std::bad_alloc();
    }
    return Status();
  };
  const auto submitted = rig.Submit(MakeRequest(Counting(3), 50));
  const Status status = submitted.recording->Wait();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(status.message().find("host memory"), std::string::npos);
  EXPECT_EQ(status.message().find("device"), std::string::npos);
  EXPECT_FALSE(rig.engine->healthy());
  EXPECT_EQ(rig.Submit(MakeRequest(Counting(3), 1)).id.status().code(), StatusCode::kUnavailable);
}

TEST(Engine, GracefulStopFinishesWhatRuns) {
  Gate gate;
  const EngineRig rig;
  gate.Install(*rig.runner);
  const auto running = rig.Submit(MakeRequest(Counting(3), 5));
  gate.started.acquire();
  rig.engine->StopAccepting();
  EXPECT_EQ(rig.Submit(MakeRequest(Counting(3), 1)).id.status().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(rig.engine->idle());
  gate.permits.release(100);
  EXPECT_TRUE(running.recording->Wait().ok());
}

TEST(Engine, EndOfTheEngineCancelsEverything) {
  std::vector<EngineRig::Submitted> all;
  {
    EngineOptions options;
    options.scheduler.max_num_seqs = 1;
    const EngineRig rig(options);
    for (int i = 0; i < 5; ++i) {
      all.push_back(rig.Submit(MakeRequest(Counting(3, i), 60)));
    }
  }
  for (const EngineRig::Submitted& submitted : all) {
    const Status status = submitted.recording->Wait();
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kCancelled) << status.message();
  }
}

TEST(Engine, ManyThreadsSubmitAndCancelAtRandom) {
  EngineOptions options;
  options.num_pages = 20;
  options.scheduler.max_num_queued_reqs = 1000;
  const EngineRig rig(options);
  std::atomic<int> num_wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (uint32_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937 random(thread);
        for (int i = 0; i < 60; ++i) {
          const auto prompt =
              Counting(static_cast<int>(random() % 40) + 1, static_cast<TokenId>(random() % 3));
          const int max_tokens = static_cast<int>(random() % 20) + 1;
          const auto submitted = rig.Submit(MakeRequest(prompt, max_tokens));
          if (random() % 3 == 0) {
            submitted.recording->WaitForTokens(random() % 5);
            rig.engine->Cancel(*submitted.id);
            const Status status = submitted.recording->Wait();
            num_wrong += !status.ok() && status.code() != StatusCode::kCancelled ? 1 : 0;
          } else {
            const bool right = submitted.recording->Wait().ok() &&
                               submitted.recording->tokens() ==
                                   FakeRunner::ExpectedOutput(prompt, 0, max_tokens, kVocab);
            num_wrong += right ? 0 : 1;
          }
        }
      });
    }
  }
  EXPECT_EQ(num_wrong, 0);
  rig.ExpectNoPageInUse();
}

}  // namespace
}  // namespace thermocline
