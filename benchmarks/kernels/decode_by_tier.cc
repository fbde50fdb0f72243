// One decode step of a real model whose pages, but the one being written, are all of one tier:
//   decode_by_tier MODEL TEXT NUM_THREADS ROUNDS
// The text is read once; its pages are then copied to each tier, and the tiers take turns, so that
// what slows the machine slows all of them. Prints one JSON object a line: of a whole step and of
// the attention of all layers alone, median and quartiles of wall time and of the process's time.

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/kernels/bench_device.h"
#include "engine/kv/kv_cache.h"
#include "engine/loader/checkpoint.h"
#include "engine/model/transformer.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_device.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;
constexpr int kContexts[] = {4096, 7168};
constexpr int kNumPages = 7168 / kPageTokens;
constexpr std::pair<Tier, const char*> kTiers[] = {
    {Tier::kHot, "hot"}, {Tier::kWarm, "warm"}, {Tier::kCold, "cold"}, {Tier::kArchive, "archive"}};

struct Sample {
  double wall_ms = 0;
  double processor_ms = 0;
};

template <typename Work>
Sample Time(Work work) {
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t processor_begin = std::clock();
  work();
  const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - begin;
  return {wall.count(), 1e3 * static_cast<double>(std::clock() - processor_begin) / CLOCKS_PER_SEC};
}

// Lower quartile, median, upper quartile.
std::vector<double> Quartiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double part) {
    return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
  };
  return {at(0.25), at(0.5), at(0.75)};
}

// A text whose pages are held in every tier. Page kNumPages * tier + i is page i in that tier; the
// last id is the page that is being written.
class TieredText {
 public:
  TieredText(Transformer& model, CpuDevice& device, const KvFormats& formats,
             std::vector<TokenId> tokens)
      : model_(model),
        device_(device),
        stream_(device.NewStream()),
        layout_(MakeKvLayout(model.config(), kPageTokens)),
        tokens_(std::move(tokens)),
        page_bytes_(PageBytes(layout_, formats)),
        cache_(KvCache::Create(device, layout_, formats, ArenaBytes()).value()),
        mean_keys_(static_cast<size_t>(layout_.num_layers * layout_.num_kv_heads) *
                   static_cast<size_t>(layout_.head_dim)) {
    uint32_t unit = 0;
    for (const auto& [tier, name] : kTiers) {
      for (int i = 0; i < kNumPages + (tier == Tier::kArchive ? 1 : 0); ++i) {
        const Tier actual = i < kNumPages ? tier : Tier::kHot;
        page_map_.emplace_back(actual, unit);
        unit += Units(actual);
      }
    }
    for (int page = 0; page < kNumPages; ++page) {
      Forward(page * kPageTokens, kPageTokens, Tier::kHot);
    }
    for (const Tier tier : {Tier::kWarm, Tier::kCold, Tier::kArchive}) {
      for (int page = 0; page < kNumPages; ++page) {
        const PageMove move{.from = page_map_[PageOf(Tier::kHot, page)],
                            .to = page_map_[PageOf(tier, page)],
                            .first_position = page * kPageTokens};
        MoveResult result;
        device.ops().TranscodePages(std::span(&move, 1), View(), std::span(&result, 1), *stream_);
        CHECK(result.outcome == MoveResult::Outcome::kOk);
      }
    }
  }

  // The token after `context` positions, its logits included.
  void Decode(int context, Tier tier) {
    Forward(context, 1, tier);
    const int32_t row = 0;
    model_.ComputeLogits(std::span(&row, 1), *stream_);
    CHECK(stream_->Sync().ok());
  }

  // Of all layers, for some query.
  void Attend(int context, Tier tier) {
    const ModelConfig& config = model_.config();
    const std::vector<PageId> pages = Pages(context, tier);
    const std::vector<int32_t> starts = {0, 1};
    const std::vector<int32_t> page_starts = {0, static_cast<int32_t>(pages.size())};
    const int32_t position = context;
    const BatchView batch{1, 1, starts.data(), &position, page_starts.data(), pages.data()};
    const int64_t width = int64_t{config.num_heads + 2 * config.num_kv_heads} * config.head_dim;
    query_.assign(static_cast<size_t>(width), 0.5F);
    out_.resize(static_cast<size_t>(config.num_heads * config.head_dim));
    for (int layer = 0; layer < config.num_layers; ++layer) {
      device_.ops().PagedAttention(Tensor(query_.data(), {1, width}), config.num_heads, batch,
                                   View(), {.layer = layer, .scale = 0.125F},
                                   Tensor(out_.data(), {1, static_cast<int64_t>(out_.size())}),
                                   *stream_);
    }
    CHECK(stream_->Sync().ok());
  }

 private:
  uint32_t Units(Tier tier) const {
    return static_cast<uint32_t>(page_bytes_[static_cast<size_t>(tier)] / kArenaUnitBytes);
  }
  uint64_t ArenaBytes() const {
    uint64_t units = Units(Tier::kHot);
    for (const auto& [tier, name] : kTiers) {
      units += uint64_t{kNumPages} * Units(tier);
    }
    return units * kArenaUnitBytes;
  }
  static PageId PageOf(Tier tier, int page) {
    return static_cast<PageId>(kNumPages * static_cast<int>(tier) + page);
  }
  // Of `context` positions, and the one that is written.
  std::vector<PageId> Pages(int context, Tier tier) const {
    std::vector<PageId> pages(static_cast<size_t>(context / kPageTokens));
    std::iota(pages.begin(), pages.end(), PageOf(tier, 0));
    pages.push_back(static_cast<PageId>(page_map_.size() - 1));
    return pages;
  }
  KvCacheView View() const {
    KvCacheView view = cache_.view(page_map_);
    view.mean_keys = mean_keys_.data();
    return view;
  }
  void Forward(int first, int count, Tier tier) {
    std::vector<PageId> pages = Pages(first, tier);
    if (count == kPageTokens) {  // a page of the text that is read
      pages.back() = PageOf(tier, first / kPageTokens);
    }
    std::vector<int32_t> positions(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), first);
    const std::vector<int32_t> starts = {0, count};
    const std::vector<int32_t> page_starts = {0, static_cast<int32_t>(pages.size())};
    const BatchView batch{.num_tokens = count,
                          .num_sequences = 1,
                          .sequence_starts = starts.data(),
                          .positions = positions.data(),
                          .page_starts = page_starts.data(),
                          .page_ids = pages.data(),
                          .tokens = tokens_.data() + first};
    model_.Forward(batch, View(), *stream_);
  }

  Transformer& model_;
  CpuDevice& device_;
  std::unique_ptr<Stream> stream_;
  KvLayout layout_;
  std::vector<TokenId> tokens_;
  std::array<uint32_t, kNumTiers> page_bytes_;
  KvCache cache_;
  std::vector<float> mean_keys_;  // zeros, which cost what others do
  std::vector<PageEntry> page_map_;
  std::vector<float> query_;
  std::vector<float> out_;
};

void Print(const char* work, int context, const char* tier, const std::vector<Sample>& samples,
           int num_threads) {
  std::vector<double> wall;
  std::vector<double> processor;
  for (const Sample& sample : samples) {
    wall.push_back(sample.wall_ms);
    processor.push_back(sample.processor_ms);
  }
  fmt::print(
      "{{\"work\": \"{}\", \"context\": {}, \"pages\": \"{}\", \"threads\": {}, \"samples\": {}, "
      "\"wall_ms\": [{:.3f}], \"processor_ms\": [{:.3f}]}}\n",
      work, context, tier, num_threads, samples.size(), fmt::join(Quartiles(wall), ", "),
      fmt::join(Quartiles(processor), ", "));
  std::fflush(stdout);
}

int Run(const char* model_path, const char* text_path, int num_threads, int rounds) {
  const auto file = OpenCheckpoint(model_path).value();
  const ModelConfig config = ReadModelConfig(*file).value();
  const auto tokenizer = LoadTokenizer(*file).value();
  const auto device = BenchDevice(num_threads);
  Transformer model =
      Transformer::Load(config, *file, *device, device->ops(), kPageTokens, {}).value();
  std::ifstream text_file(text_path);
  const std::string text((std::istreambuf_iterator<char>(text_file)), {});
  std::vector<TokenId> tokens = tokenizer->Encode(text, SpecialTokens::kPlain);
  CHECK(tokens.size() > size_t{kNumPages} * kPageTokens);
  KvFormats formats = DefaultKvFormats(MakeKvLayout(config, kPageTokens));
  formats.key_bias = ReadKeyBias(config, *file, MakeKvLayout(config, kPageTokens));
  TieredText tiered(model, *device, formats, std::move(tokens));
  for (const int context : kContexts) {
    std::vector<Sample> steps[std::size(kTiers)];
    std::vector<Sample> attention[std::size(kTiers)];
    for (int round = -2; round < rounds; ++round) {  // two to warm up
      for (size_t i = 0; i < std::size(kTiers); ++i) {
        const Tier tier = kTiers[i].first;
        const Sample step = Time([&] { tiered.Decode(context, tier); });
        const Sample attended = Time([&] { tiered.Attend(context, tier); });
        if (round >= 0) {
          steps[i].push_back(step);
          attention[i].push_back(attended);
        }
      }
    }
    for (size_t i = 0; i < std::size(kTiers); ++i) {
      Print("step", context, kTiers[i].second, steps[i], num_threads);
      Print("attention", context, kTiers[i].second, attention[i], num_threads);
    }
  }
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  if (argc != 5) {
    fmt::print(stderr, "usage: {} MODEL TEXT NUM_THREADS ROUNDS\n", argv[0]);
    return 2;
  }
  return thermocline::Run(argv[1], argv[2], std::stoi(argv[3]), std::stoi(argv[4]));
}
