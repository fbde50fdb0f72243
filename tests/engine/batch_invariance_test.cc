// The real model through the whole engine core: what a request gives is the same to the last bit
// whatever else runs, however its prompt is cut, whether its prefix was found or it was preempted.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "tests/testing/recording_sink.h"

namespace thermocline {
namespace {

// Passes plans on and notes how many sequences ran at once.
class CountingRunner : public Runner {
 public:
  explicit CountingRunner(Runner& runner) : runner_(runner) {}
  Result<RunResult> Run(const StepPlan& plan) override {
    max_sequences = std::max(max_sequences, plan.sequences.size());
    return runner_.Run(plan);
  }
  void StartMoves(std::span<const PageMove> moves) override { runner_.StartMoves(moves); }
  std::vector<FinishedMove> FinishedMoves(bool wait) override {
    return runner_.FinishedMoves(wait);
  }
  double move_seconds() const override { return runner_.move_seconds(); }
  size_t max_sequences = 0;

 private:
  Runner& runner_;
};

struct Options {
  int max_num_batched_tokens = 512;
  int max_model_len = 512;
  uint64_t kv_bytes = uint64_t{256} << 20;
};

class Rig {
 public:
  explicit Rig(const Options& options)
      : parts(Load(options)),
        runner(*parts.runner),
        core(parts.scheduler, *parts.pool, runner, *parts.tokenizer) {}

  std::shared_ptr<Recording> Add(const std::string& prompt, int max_tokens) {
    Request request;
    request.id = next_id_++;
    request.prompt = parts.tokenizer->Encode(prompt, SpecialTokens::kPlain);
    request.sampling = {.temperature = 0, .seed = 1, .num_logprobs = 20};
    request.stop = {.max_tokens = max_tokens, .ignore_eos = true};
    auto recording = std::make_shared<Recording>();
    core.Add(std::make_shared<const Request>(std::move(request)),
             std::make_unique<RecordingSink>(recording));
    return recording;
  }
  void RunAll() {
    while (core.has_work()) {
      ASSERT_TRUE(core.Step().ok());
      core.Deliver();
    }
  }

  EngineParts parts;
  CountingRunner runner;
  EngineCore core;

 private:
  static EngineParts Load(const Options& options) {
    EngineConfig config;
    config.model_path = THERMOCLINE_TEST_MODEL;
    config.max_num_batched_tokens = options.max_num_batched_tokens;
    config.max_num_seqs = std::min(16, options.max_num_batched_tokens);
    config.max_model_len = options.max_model_len;
    config.kv_cache_memory_bytes = options.kv_bytes;
    config.kv_policy = KvPolicy::kHot;  // bits are promised while no page cools
    config.num_threads = 2;
    EngineParts parts = LoadEngineParts(config).value();
    EXPECT_TRUE(parts.device->ops().is_batch_invariant());  // else it promises no such bits
    return parts;
  }
  RequestId next_id_ = 1;
};

const std::string kPrompt =
    "The river had risen in the night. By morning the lower meadow was under water, and the old "
    "ferryman, who had seen worse, was mending his nets on the step of the mill as if nothing had "
    "happened. He said that the water would go down by";

// Tokens and the bits of their 20 best log probabilities.
void ExpectSameBits(const Recording& a, const Recording& b) {
  ASSERT_EQ(a.tokens(), b.tokens());
  const auto x = a.logprobs();
  const auto y = b.logprobs();
  ASSERT_EQ(x.size(), a.tokens().size());
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(x[i].logprob, y[i].logprob) << "at token " << i;
    ASSERT_EQ(x[i].top, y[i].top) << "at token " << i;
  }
}

std::shared_ptr<Recording> Alone(int max_tokens) {
  Rig rig({});
  auto recording = rig.Add(kPrompt, max_tokens);
  rig.RunAll();
  return recording;
}

TEST(BatchInvariance, AmongFifteenOthersTheBitsAreTheSame) {
  const auto alone = Alone(12);
  Rig rig({});
  std::shared_ptr<Recording> among;
  for (int i = 0; i < 16; ++i) {
    const auto recording =
        rig.Add(i == 7 ? kPrompt : "Story number " + std::to_string(i * i) + " begins",
                8 + 4 * (i % 3 == 1 ? 1 : 0));
    if (i == 7) {
      among = recording;
    }
  }
  rig.RunAll();
  EXPECT_EQ(rig.runner.max_sequences, 16U);
  ExpectSameBits(*alone, *among);
}

TEST(BatchInvariance, ChunksOfThePromptChangeNoBit) {
  const auto alone = Alone(8);
  Rig rig({.max_num_batched_tokens = 7});
  const auto chunked = rig.Add(kPrompt, 8);
  rig.RunAll();
  ExpectSameBits(*alone, *chunked);
}

TEST(BatchInvariance, FoundPrefixChangesNoBit) {
  const std::string prompt = kPrompt + " " + kPrompt;
  Rig rig({});
  const auto first = rig.Add(prompt, 8);
  rig.RunAll();
  const auto second = rig.Add(prompt, 8);
  rig.RunAll();
  EXPECT_EQ(second->usage().cached_prompt_tokens, 64);
  ExpectSameBits(*first, *second);
}

TEST(BatchInvariance, PreemptionChangesNoBit) {
  const auto alone = Alone(60);
  // Three pages of 64 tokens: both prompts fit, both whole texts do not.
  Rig rig({.max_model_len = 128, .kv_bytes = uint64_t{3} * 1474560});
  const auto older = rig.Add("Once upon a time there was a mill. " + kPrompt, 60);
  const auto preempted = rig.Add(kPrompt, 60);
  rig.RunAll();
  EXPECT_GT(rig.core.stats().scheduler.num_preemptions, 0U);
  ASSERT_TRUE(older->done());
  ExpectSameBits(*alone, *preempted);
}

}  // namespace
}  // namespace thermocline
