#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "engine/engine_core.h"
#include "scheduler/page_pool.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/page_pools.h"
#include "tests/testing/recording_sink.h"

namespace thermocline {

// Drives an EngineCore on the test's thread. Borrows pool and runner.
class CoreDriver {
 public:
  CoreDriver(const SchedulerConfig& config, PagePool& pool, Runner& runner)
      : tokenizer_(kVocab), core(config, pool, runner, tokenizer_) {}

  // A request without an id gets the next one.
  Submitted Add(Request request) {
    if (request.id == 0) {
      request.id = ++last_id_;
    }
    auto recording = std::make_shared<Recording>();
    core.Add(std::make_shared<const Request>(request), std::make_unique<RecordingSink>(recording));
    return {std::move(request), std::move(recording)};
  }
  void Step() {
    if (core.has_work()) {
      ASSERT_TRUE(core.Step().ok());
    }
    core.Deliver();
  }
  void RunAll() {
    for (int i = 0; core.has_work(); ++i) {
      ASSERT_LT(i, 100000);
      Step();
    }
  }

 private:
  FakeTokenizer tokenizer_;
  RequestId last_id_ = 0;

 public:
  EngineCore core;
};

// The same with a pool and a fake model of its own.
class CoreRig {
 public:
  CoreRig(std::unique_ptr<PagePool> pages, const SchedulerConfig& config)
      : pool(std::move(pages)),
        runner(*pool, kVocab),
        driver_(config, *pool, runner),
        core(driver_.core) {}

  Submitted Add(Request request) { return driver_.Add(std::move(request)); }
  void Step() { driver_.Step(); }
  void RunAll() { driver_.RunAll(); }

  std::unique_ptr<PagePool> pool;
  FakeRunner runner;

 private:
  CoreDriver driver_;

 public:
  EngineCore& core;
};

// Tiers of the small pages in page_pools.h: the recent window is two of them.
constexpr TierConfig SmallTiers(KvPolicy policy, double budget = 0) {
  return {.policy = policy, .budget = budget, .window_tokens = 2 * kFakePageTokens};
}

}  // namespace thermocline
