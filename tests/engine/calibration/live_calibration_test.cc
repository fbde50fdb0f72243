#include "engine/calibration/live_calibration.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "engine/model_runner.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/test_device.h"
#include "tests/testing/tiny_model.h"

namespace thermocline {
namespace {

constexpr int kMaxModelLen = 1024;

// An engine with a real model of random weights.
class Serving {
 public:
  struct Options {
    KvPolicy policy = KvPolicy::kAdaptive;
    bool calibrates = true;
    int num_hot_pages = 24;
    std::string path;  // of the calibration
  };
  explicit Serving(const Options& options) {
    EngineParts parts;
    parts.device = MakeTestDevice(2);
    parts.tokenizer = std::make_unique<FakeTokenizer>(kTinyVocab);
    const KvLayout& layout = tiny_.layout;
    const KvFormats formats = SafeKvFormats(layout);
    const auto page_bytes = PageBytes(layout, formats);
    const uint64_t arena_bytes = static_cast<uint64_t>(options.num_hot_pages) * page_bytes[0];
    parts.pool =
        std::make_unique<PagePool>(layout, page_bytes, arena_bytes, uint32_t{kArenaUnitBytes});
    auto runner = std::make_unique<ModelRunner>(
        Transformer::Load(tiny_.config, tiny_.checkpoint, *parts.device, parts.device->ops(),
                          kTinyPageTokens, {})
            .value(),
        KvCache::Create(*parts.device, layout, formats, arena_bytes).value(),
        Sampler(kTinyVocab, {}), *parts.pool, *parts.device, std::vector<int>());
    if (options.calibrates) {
      LiveCalibration::Config config{.path = options.path, .layout = layout, .every_layer = true};
      config.tokens = tiny_.CopiedText(16);
      config.apply = [this, runner = runner.get()](const Calibration& calibration) {
        runner->SetFormats(calibration.formats, calibration.probe_layers);
        switched_.set_value(calibration);
      };
      parts.live_calibration = std::make_unique<LiveCalibration>(
          runner->model(), *parts.device, Calibration{.formats = formats}, std::move(config));
    }
    parts.runner = std::move(runner);
    parts.scheduler = {.max_num_seqs = 4,
                       .max_num_batched_tokens = kTinyPageTokens,
                       .max_model_len = kMaxModelLen,
                       .max_num_queued_reqs = 64,
                       .prefix_hash_key = 1,
                       .tiers = {.policy = options.policy}};
    parts.draw_seed = [] { return uint64_t{5}; };
    engine = Engine::FromParts(std::move(parts));
  }

  std::shared_ptr<Recording> Submit(int num_prompt, int first, int max_tokens,
                                    KvFidelity fidelity) {
    Request request;
    for (int i = 0; i < num_prompt; ++i) {
      request.prompt.push_back((first + i * i) % kTinyVocab);
    }
    request.sampling.temperature = 0;
    request.stop.max_tokens = max_tokens;
    request.stop.ignore_eos = true;
    request.kv_fidelity = fidelity;
    auto recording = std::make_shared<Recording>();
    EXPECT_TRUE(
        engine->Submit(std::move(request), std::make_unique<RecordingSink>(recording)).ok());
    return recording;
  }
  // Until the calibrated formats are in force.
  Calibration AwaitSwitch() { return switched_.get_future().get(); }

 private:
  TinyModel tiny_;
  std::promise<Calibration> switched_;

 public:
  std::unique_ptr<Engine> engine;
};

// What `serving` answers to requests of all fidelities, submitted at once.
std::vector<std::shared_ptr<Recording>> SubmitAll(Serving& serving, KvFidelity even) {
  std::vector<std::shared_ptr<Recording>> all;
  for (int i = 0; i < 12; ++i) {
    all.push_back(serving.Submit(100 + 60 * (i % 6), 7 * (i % 4), 24,
                                 i % 2 == 0 ? even : KvFidelity::kBalanced));
  }
  return all;
}

TEST(LiveCalibration, RequestsAreAnsweredMeanwhileAndExactOnesAsIfNothingEverCooled) {
  Serving hot({.policy = KvPolicy::kHot, .calibrates = false, .num_hot_pages = 200});
  const auto expected = SubmitAll(hot, KvFidelity::kExact);
  Serving serving({});
  EXPECT_EQ(serving.engine->stats().calibration.state, CalibrationState::kMeasuring);
  const auto before = SubmitAll(serving, KvFidelity::kExact);
  for (const auto& recording : before) {
    EXPECT_TRUE(recording->Wait().ok());
  }
  const Calibration calibration = serving.AwaitSwitch();
  const auto after = SubmitAll(serving, KvFidelity::kExact);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(expected[i]->Wait().ok());
    ASSERT_TRUE(after[i]->Wait().ok());
    EXPECT_EQ(before[i]->tokens().size(), 24U);
    if (i % 2 == 0) {
      EXPECT_EQ(before[i]->tokens(), expected[i]->tokens()) << i;
      EXPECT_EQ(after[i]->tokens(), expected[i]->tokens()) << i;
      EXPECT_FALSE(after[i]->usage().reused_lossy);
    }
  }
  const EngineStats stats = serving.engine->stats();
  EXPECT_EQ(stats.calibration.state, CalibrationState::kCalibrated);
  EXPECT_EQ(stats.calibration.fraction, 1);
  EXPECT_EQ(stats.calibration.cold_kl, calibration.cold_kl);
  EXPECT_GT(stats.tiers.moves[static_cast<size_t>(Tier::kCold)], 0U);
}

// Requests never end, each followed by the next, and yet it gets its share.
TEST(LiveCalibration, EndsUnderConstantLoadToo) {
  Serving serving({.num_hot_pages = 64});
  std::future<Calibration> switched =
      std::async(std::launch::async, [&] { return serving.AwaitSwitch(); });
  std::vector<std::shared_ptr<Recording>> running;
  int i = 0;
  while (switched.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    running.push_back(serving.Submit(64, ++i % 40, 64, KvFidelity::kBalanced));
    if (running.size() == 3) {
      ASSERT_TRUE(running.front()->Wait().ok());
      running.erase(running.begin());
    }
  }
  for (const auto& recording : running) {
    EXPECT_TRUE(recording->Wait().ok());
  }
  EXPECT_GT(switched.get().cold_kl, 0);
}

TEST(LiveCalibration, StoppingDoesNotWaitForItAndWhatIsDoneIsKept) {
  const std::string folder = testing::TempDir() + "live_calibration";
  std::filesystem::remove_all(folder);
  const std::string path = folder + "/calibration-test.bin";
  TinyModel tiny;
  Transformer model = tiny.Load(kTinyPageTokens);
  const auto begin = [&](Calibration begun) {
    begun.formats = DefaultKvFormats(tiny.layout);
    return LiveCalibration(
        model, *tiny.device, std::move(begun),
        {.path = path, .layout = tiny.layout, .every_layer = true, .tokens = tiny.CopiedText(16)});
  };
  const std::string part = LiveCalibration::PartialPath(path);
  {
    LiveCalibration first = begin({});
    while (!std::filesystem::exists(part)) {
      first.Step(kTinyPageTokens);
      ASSERT_FALSE(first.ended());
    }
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  LiveCalibration second = begin(ReadCalibration(part, {}, tiny.layout).value());
  while (!second.ended()) {
    second.Work(/*step_seconds=*/0);
  }
  EXPECT_TRUE(second.status().ok());
  EXPECT_TRUE(second.wants_switch());
  EXPECT_EQ(second.keep_warning(), "");
  EXPECT_FALSE(std::filesystem::exists(part));
  EXPECT_EQ(ReadCalibration(path, {}, tiny.layout).value().layer_kl, second.result().layer_kl);
  std::filesystem::remove_all(folder);
}

TEST(LiveCalibration, BesideStepsItTakesASmallShareOfTheTime) {
  TinyModel tiny;
  Transformer model = tiny.Load(kTinyPageTokens);
  LiveCalibration live(model, *tiny.device, {.formats = DefaultKvFormats(tiny.layout)},
                       {.layout = tiny.layout, .tokens = tiny.CopiedText(16)});
  live.Work(/*step_seconds=*/0.01);
  EXPECT_EQ(live.fraction(), 0);  // its share of ten milliseconds is less than a piece
  for (int i = 0; i < 100; ++i) {
    live.Work(0.01);
  }
  EXPECT_GT(live.fraction(), 0);
}

TEST(PieceSize, FollowsTheTimeThatPiecesTake) {
  PieceSize size(16, 0.05);
  size.Note(0.01);
  EXPECT_EQ(size.tokens(), 32);
  size.Note(0.05);
  EXPECT_EQ(size.tokens(), 32);
  for (int i = 0; i < 9; ++i) {
    size.Note(1);
  }
  EXPECT_EQ(size.tokens(), 4);
  for (int i = 0; i < 9; ++i) {
    size.Note(0.001);
  }
  EXPECT_EQ(size.tokens(), 64);
}

}  // namespace
}  // namespace thermocline
