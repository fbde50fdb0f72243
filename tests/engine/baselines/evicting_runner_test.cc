#include "engine/baselines/evicting_runner.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/model_runner.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/testing/delayed_device.h"
#include "tests/testing/tiny_model.h"

namespace thermocline {
namespace {

constexpr int kMaxTokens = 256;
constexpr int kNumPages = 40;
constexpr Baseline kBaselines[] = {Baseline::kStreaming, Baseline::kH2o, Baseline::kSnapKv};

std::unique_ptr<Device> MakeCpu() { return CpuDevice::Create({.num_threads = 2}).value(); }

Evictor::Options OptionsOf(const TinyModel& tiny, Baseline baseline, double budget) {
  return {
      .baseline = baseline, .budget = budget, .num_heads = tiny.config.num_heads, .num_threads = 2};
}

// The tiny model reads a text, and says what the logits are after its last token.
class Reader {
 public:
  explicit Reader(std::optional<Baseline> baseline = std::nullopt, double budget = 0,
                  int num_layers = 3)
      : tiny_(num_layers), device_(MakeCpu()) {
    std::unique_ptr<EvictingOps> evicting;
    if (baseline.has_value()) {
      evicting =
          EvictingOps::Create(*device_, OptionsOf(tiny_, *baseline, budget), tiny_.layout).value();
    }
    const KvFormats formats = DefaultKvFormats(tiny_.layout);
    const auto page_bytes = PageBytes(tiny_.layout, formats);
    const uint64_t arena_bytes = uint64_t{kNumPages} * page_bytes[0];
    pool_ = std::make_unique<PagePool>(tiny_.layout, page_bytes, arena_bytes);
    auto runner = std::make_unique<ModelRunner>(
        Transformer::Load(tiny_.config, tiny_.checkpoint, *device_,
                          evicting == nullptr ? device_->ops() : *evicting, kMaxTokens, {})
            .value(),
        KvCache::Create(*device_, tiny_.layout, formats, arena_bytes).value(),
        Sampler(kTinyVocab, {7}), *pool_, *device_, std::vector<int>());
    runner->set_logits_observer([this](const LogitRow& /*row*/, std::span<const float> logits) {
      logits_.assign(logits.begin(), logits.end());
    });
    runner_ = std::move(runner);
    if (evicting != nullptr) {
      runner_ = std::make_unique<EvictingRunner>(std::move(evicting), std::move(runner_));
    }
    auto request = std::make_shared<Request>();
    request->prompt = tiny_.CopiedText(8);
    request->sampling.temperature = 0;
    request->num_prompt_logprobs = 0;  // asks for logits after each token
    sequence_.request = request;
    sequence_.tokens = request->prompt;
  }

  // Another token at a position that has not been read.
  void Change(size_t position) {
    sequence_.tokens[position] = (sequence_.tokens[position] + 1) % kTinyVocab;
  }

  // The next tokens of one sequence, and what a step says of them.
  RunResult Read(int num_tokens) {
    StepPlan plan{.sequences = {{&sequence_, num_tokens}}};
    while (static_cast<int>(sequence_.pages.size()) * kTinyPageTokens <
           sequence_.num_computed + num_tokens) {
      sequence_.pages.Append(pool_->Allocate(kAnyTier).value());
    }
    RunResult result = runner_->Run(plan).value();
    sequence_.num_computed += num_tokens;
    return result;
  }

  const std::vector<float>& logits() const { return logits_; }
  uint64_t BytesOf(int num_tokens) const {
    return static_cast<uint64_t>(num_tokens * tiny_.layout.num_layers * tiny_.layout.num_kv_heads) *
           2 * NativeVectorBytes(tiny_.layout);
  }

 private:
  TinyModel tiny_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Runner> runner_;
  Sequence sequence_;
  std::vector<float> logits_;
};

TEST(EvictingRunner, WithTheWholeBudgetTheBitsAreThoseOfTheRunnerInside) {
  Reader plain;
  EXPECT_TRUE(plain.Read(200).held_bytes.empty());
  plain.Read(1);
  for (const Baseline baseline : kBaselines) {
    Reader reader(baseline, 1.0);
    reader.Read(200);
    const RunResult result = reader.Read(1);
    EXPECT_EQ(reader.logits(), plain.logits());
    ASSERT_EQ(result.held_bytes.size(), 1U);
    EXPECT_EQ(result.held_bytes[0], reader.BytesOf(201));
  }
}

TEST(EvictingRunner, WhatAStepEvictsTheNextDoesNotSee) {
  Reader plain;
  plain.Read(200);
  const std::vector<float> whole = plain.logits();
  plain.Read(1);
  for (const Baseline baseline : {Baseline::kStreaming, Baseline::kH2o}) {
    Reader reader(baseline, 0.25);
    EXPECT_EQ(reader.Read(200).held_bytes[0], reader.BytesOf(50));
    EXPECT_EQ(reader.logits(), whole) << "all is seen until the step ends";
    EXPECT_EQ(reader.Read(1).held_bytes[0], reader.BytesOf(50));
    EXPECT_NE(reader.logits(), plain.logits());
  }
}

// In one layer, K and V of a token are of that token alone: so the others can be any, bit for bit.
TEST(EvictingRunner, WhatWasEvictedHasNoPartInTheLogits) {
  const auto logits_with = [](const std::vector<size_t>& changed) {
    Reader reader(Baseline::kStreaming, 0.25, /*num_layers=*/1);
    for (const size_t position : changed) {
      reader.Change(position);
    }
    reader.Read(200);  // keeps 0 to 3 and 154 to 199
    reader.Read(1);
    return reader.logits();
  };
  const std::vector<float> logits = logits_with({});
  EXPECT_EQ(logits_with({4, 63, 64, 90, 153}), logits);
  EXPECT_NE(logits_with({3}), logits);
  EXPECT_NE(logits_with({154}), logits);
}

// Says that it was called, and fails when told to.
class FakeRunner final : public Runner {
 public:
  Result<RunResult> Run(const StepPlan& plan) override {
    return status.ok() ? Result<RunResult>(RunResult(plan.sequences.size())) : status;
  }
  void StartMoves(std::span<const PageMove> moves) override { num_moves += moves.size(); }
  std::vector<FinishedMove> FinishedMoves(bool wait) override {
    return std::vector<FinishedMove>(wait ? std::exchange(num_moves, 0) : 0);
  }
  double move_seconds() const override { return 2.5; }

  Status status;
  size_t num_moves = 0;
};

struct FakeRig {
  FakeRig()
      : device(MakeCpu()),
        ops(EvictingOps::Create(*device, OptionsOf(tiny, Baseline::kStreaming, 0.25), tiny.layout)
                .value()),
        evictor(ops->evictor()),
        runner(std::move(ops), std::make_unique<FakeRunner>()),
        inner(static_cast<FakeRunner&>(runner.runner())) {}

  TinyModel tiny;
  std::unique_ptr<Device> device;
  std::unique_ptr<EvictingOps> ops;  // until the runner has it
  Evictor& evictor;
  EvictingRunner runner;
  FakeRunner& inner;
};

TEST(EvictingRunner, AStepThatFailsEvictsNothing) {
  FakeRig rig;
  auto request = std::make_shared<Request>();
  request->prompt.resize(200);
  Sequence sequence{.request = request};
  sequence.tokens = request->prompt;
  for (PageId page = 0; page < 4; ++page) {
    sequence.pages.Append(page);
  }
  const StepPlan plan{.sequences = {{&sequence, 100}}};
  rig.inner.status = Internal("the device is gone");
  const Status status = rig.runner.Run(plan).status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(status.message(), "the device is gone");
  EXPECT_EQ(rig.evictor.kept().of(0, 0, 0), ~uint64_t{0});
  rig.inner.status = {};
  EXPECT_EQ(rig.runner.Run(plan).value().held_bytes.size(), 1U);
  EXPECT_EQ(rig.evictor.kept().of(0, 0, 0), 0xfU);  // of 25 tokens, the sinks
}

TEST(EvictingRunner, MovesAreOfTheRunnerInside) {
  FakeRig rig;
  rig.runner.StartMoves(std::vector<PageMove>(3));
  EXPECT_TRUE(rig.runner.FinishedMoves(false).empty());
  EXPECT_EQ(rig.runner.FinishedMoves(true).size(), 3U);
  EXPECT_EQ(rig.runner.move_seconds(), 2.5);
}

TEST(EvictingRunner, ADeviceWhoseMemoryTheHostCannotReadIsRefused) {
  const TinyModel tiny;
  DelayedDevice device(MakeCpu());
  const Status status =
      EvictingOps::Create(device, OptionsOf(tiny, Baseline::kH2o, 0.5), tiny.layout).status();
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "a --kv-policy that evicts tokens needs --device cpu");
}

}  // namespace
}  // namespace thermocline
