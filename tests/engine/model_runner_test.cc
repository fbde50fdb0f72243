#include "engine/model_runner.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "tests/testing/test_device.h"
#include "tests/testing/tiny_model.h"

namespace thermocline {
namespace {

constexpr int kMaxTokens = 512;
constexpr int kNumPages = 40;

// A runner of the tiny model, and sequences that it is given one step of.
class RunnerRig {
 public:
  explicit RunnerRig(std::unique_ptr<Device> device)
      : device_(std::move(device)),
        formats_(DefaultKvFormats(tiny_.layout)),
        page_bytes_(PageBytes(tiny_.layout, formats_)),
        pool_(tiny_.layout, page_bytes_, uint64_t{kNumPages} * page_bytes_[0]),
        runner_(
            Transformer::Load(tiny_.config, tiny_.checkpoint, *device_, device_->ops(), kMaxTokens,
                              {})
                .value(),
            KvCache::Create(*device_, tiny_.layout, formats_, uint64_t{kNumPages} * page_bytes_[0])
                .value(),
            Sampler(kTinyVocab, {7}), pool_, *device_, {}) {}

  void Add(int num_prompt, SamplingParams sampling, int num_prompt_logprobs = -1,
           int min_tokens = 0) {
    auto request = std::make_shared<Request>();
    request->prompt = tiny_.CopiedText(4);
    request->prompt.resize(static_cast<size_t>(num_prompt));
    sampling.seed = sequences_.size();
    request->sampling = std::move(sampling);
    request->num_prompt_logprobs = num_prompt_logprobs;
    request->stop.min_tokens = min_tokens;
    auto sequence = std::make_unique<Sequence>();
    sequence->request = request;
    sequence->tokens = request->prompt;
    for (int i = 0; i < num_prompt; i += kTinyPageTokens) {
      sequence->pages.Append(pool_.Allocate(kAnyTier).value());
    }
    sequences_.push_back(std::move(sequence));
  }

  RunResult Run(bool sample_heat = false) {
    StepPlan plan{.sample_heat = sample_heat};
    for (const auto& sequence : sequences_) {
      plan.sequences.push_back({sequence.get(), sequence->num_wanted()});
    }
    return runner_.Run(plan).value();
  }

  ModelRunner& runner() { return runner_; }

 private:
  TinyModel tiny_;
  std::unique_ptr<Device> device_;
  KvFormats formats_;
  std::array<uint32_t, kNumTiers> page_bytes_;
  PagePool pool_;
  ModelRunner runner_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

void AddEveryKindOfDraw(RunnerRig& rig) {
  rig.Add(9, {.temperature = 0});
  rig.Add(70, {});
  rig.Add(5, {.temperature = 2, .num_logprobs = 2});
  rig.Add(6, {.top_k = 5});
  rig.Add(7, {.top_p = 0.5F});
  rig.Add(8, {.min_p = 0.1F, .repetition_penalty = 1.5F});
  rig.Add(5, {.logit_bias = {{3, 50.0F}}});
  rig.Add(4, {.top_p = 0});
  rig.Add(100, {.temperature = 0}, /*num_prompt_logprobs=*/1);  // rows of two blocks
  rig.Add(6, {.temperature = 1.5F});
  rig.Add(6, {.temperature = 0}, -1, /*min_tokens=*/1);
}

TEST(ModelRunner, TokensAreTheSameWhetherHostOrDeviceDrawsThem) {
  RunnerRig rig(MakeTestDevice(2));
  AddEveryKindOfDraw(rig);
  const RunResult drawn = rig.Run();
  int num_rows = 0;
  rig.runner().set_logits_observer([&](const LogitRow&, std::span<const float> logits) {
    num_rows += logits.size() == kTinyVocab ? 1 : 0;
  });
  const RunResult on_host = rig.Run();
  EXPECT_EQ(num_rows, 11 + 99);  // the observer sees all of them
  EXPECT_EQ(drawn.step.accepted, on_host.step.accepted);
  for (size_t i = 0; i < drawn.step.accepted.size(); ++i) {
    EXPECT_TRUE(drawn.errors[i].ok());
    ASSERT_EQ(drawn.step.accepted[i].size(), 1U) << i;
  }
  EXPECT_EQ(drawn.step.accepted[6].front(), 3);  // so much is it biased
  ASSERT_EQ(drawn.output_logprobs[2].size(), 1U);
  EXPECT_EQ(drawn.output_logprobs[2][0].token, drawn.step.accepted[2][0]);
  EXPECT_EQ(drawn.output_logprobs[2][0].top.size(), 2U);
  EXPECT_EQ(drawn.prompt_logprobs[8].size(), 99U);
}

TEST(ModelRunner, EveryDeviceComputesTheSame) {
  RunnerRig rig(MakeTestDevice(2));
  RunnerRig cpu(CpuDevice::Create({.num_threads = 1}).value());
  AddEveryKindOfDraw(rig);
  AddEveryKindOfDraw(cpu);
  const RunResult got = rig.Run(/*sample_heat=*/true);
  const RunResult want = cpu.Run(/*sample_heat=*/true);
  EXPECT_EQ(got.step.accepted, want.step.accepted);
  ASSERT_EQ(got.step.heat.size(), 11U);
  for (size_t s = 0; s < got.step.heat.size(); ++s) {
    ASSERT_EQ(got.step.heat[s].size(), want.step.heat[s].size());
    for (size_t page = 0; page < got.step.heat[s].size(); ++page) {
      EXPECT_EQ(got.step.heat[s][page].peak, want.step.heat[s][page].peak);
      EXPECT_EQ(got.step.heat[s][page].mean, want.step.heat[s][page].mean);
      EXPECT_GT(got.step.heat[s][page].peak, 0.0F);
      EXPECT_LE(got.step.heat[s][page].mean, got.step.heat[s][page].peak);
    }
  }
}

}  // namespace
}  // namespace thermocline
