// The eviction baselines on the real model, through the whole engine core.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/baselines/eviction_rules.h"
#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "tests/testing/recording_sink.h"

namespace thermocline {
namespace {

constexpr Baseline kBaselines[] = {Baseline::kStreaming, Baseline::kH2o, Baseline::kSnapKv};
constexpr int kOutput = 10;

class RealModelRig {
 public:
  RealModelRig(std::optional<Baseline> baseline, double budget)
      : parts_(Load(baseline, budget)),
        core_(parts_.scheduler, *parts_.pool, *parts_.runner, *parts_.tokenizer) {}

  std::shared_ptr<Recording> Run(const std::string& prompt) {
    Request request;
    request.id = next_id_++;
    request.prompt = parts_.tokenizer->Encode(prompt, SpecialTokens::kPlain);
    request.sampling = {.temperature = 0, .seed = 1, .num_logprobs = 5};
    request.stop = {.max_tokens = kOutput, .ignore_eos = true};
    auto recording = std::make_shared<Recording>();
    core_.Add(std::make_shared<const Request>(std::move(request)),
              std::make_unique<RecordingSink>(recording));
    while (core_.has_work()) {
      EXPECT_TRUE(core_.Step().ok());
      core_.Deliver();
    }
    return recording;
  }

  uint64_t token_bytes() const {
    const KvLayout& layout = parts_.pool->layout();
    return uint64_t{2} * NativeVectorBytes(layout) * static_cast<uint64_t>(layout.num_layers) *
           static_cast<uint64_t>(layout.num_kv_heads);
  }
  uint64_t page_bytes() const { return parts_.budget.page_bytes; }

 private:
  static EngineParts Load(std::optional<Baseline> baseline, double budget) {
    EngineConfig config;
    config.model_path = THERMOCLINE_TEST_MODEL;
    config.max_num_batched_tokens = 100;
    config.max_num_seqs = 4;
    config.max_model_len = 1024;
    config.kv_cache_memory_bytes = uint64_t{64} << 20;
    config.kv_policy = KvPolicy::kHot;
    config.baseline = baseline;
    config.kv_budget = budget;
    config.num_threads = 2;
    return LoadEngineParts(config).value();
  }

  EngineParts parts_;
  EngineCore core_;
  RequestId next_id_ = 1;
};

std::string Story() {
  std::string story;
  for (int i = 0; i < 8; ++i) {
    story += "In the year " + std::to_string(1900 + 7 * i) +
             " the river rose in the night, and by morning the lower meadow was under water. ";
  }
  return story;
}

TEST(EvictionModel, PolicyWithoutABudgetIsRefusedByTheOptionsName) {
  for (const Baseline baseline : kBaselines) {
    const Status status = ValidateEngineConfig({.kv_policy = KvPolicy::kHot, .baseline = baseline});
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("--kv-budget"), std::string::npos);
    EXPECT_TRUE(
        ValidateEngineConfig({.kv_policy = KvPolicy::kHot, .baseline = baseline, .kv_budget = 0.25})
            .ok());
  }
}

TEST(EvictionModel, WithTheWholeBudgetTheBitsAreThoseOfHotPages) {
  RealModelRig hot_rig(std::nullopt, 0);
  const auto hot = hot_rig.Run(Story());
  const auto num_held = static_cast<uint64_t>(hot->usage().prompt_tokens + kOutput - 1);
  EXPECT_EQ(hot->usage().kv_bytes_held, (num_held + 63) / 64 * hot_rig.page_bytes());
  for (const Baseline baseline : kBaselines) {
    RealModelRig rig(baseline, 1.0);
    const auto all = rig.Run(Story());
    EXPECT_EQ(all->tokens(), hot->tokens());
    for (size_t i = 0; i < hot->logprobs().size(); ++i) {
      EXPECT_EQ(all->logprobs()[i].top, hot->logprobs()[i].top);
    }
    EXPECT_EQ(all->usage().kv_bytes_held, num_held * rig.token_bytes());
  }
}

TEST(EvictionModel, AQuarterOfTheBudgetIsAQuarterOfTheTokens) {
  for (const Baseline baseline : kBaselines) {
    RealModelRig rig(baseline, 0.25);
    for (const std::string& prompt : {Story(), Story() + "The miller said"}) {
      const auto recording = rig.Run(prompt);
      const int num_prompt = recording->usage().prompt_tokens;
      const int num_kept = baseline == Baseline::kSnapKv
                               ? NumKeptTokens(0.25, num_prompt) + kOutput - 1
                               : NumKeptTokens(0.25, num_prompt + kOutput - 1);
      EXPECT_EQ(recording->usage().kv_bytes_held,
                static_cast<uint64_t>(num_kept) * rig.token_bytes());
      EXPECT_EQ(recording->tokens().size(), static_cast<size_t>(kOutput));
    }
  }
}

}  // namespace
}  // namespace thermocline
