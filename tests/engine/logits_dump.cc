// Logits of every position of one prompt, for the oracle tests: reads token ids from standard
// input, writes float32 [num_tokens, vocab_size] to standard output.
//   logits_dump MODEL reference|cpu [hot|warm|cold] < ids
// With a tier the prompt is read page by page, and each page is moved there before the next reads
// it; without one all positions are one step.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/kv/kv_cache.h"
#include "engine/loader/checkpoint.h"
#include "engine/model/transformer.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_device.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;

// A prompt in a cache whose page i has a hot place and, behind it, one for a copy. Of small heads
// hot pages are not the largest.
class Prompt {
 public:
  Prompt(const char* path, bool reference, std::vector<TokenId> tokens)
      : file_(OpenCheckpoint(path).value()),
        config_(ReadModelConfig(*file_).value()),
        device_(CpuDevice::Create({.num_threads = 2, .reference = reference}).value()),
        stream_(device_->NewStream()),
        tokens_(std::move(tokens)),
        model_(Transformer::Load(config_, *file_, *device_, device_->ops(),
                                 static_cast<int>(tokens_.size()), {})
                   .value()),
        layout_(MakeKvLayout(config_, kPageTokens)),
        page_units_(std::ranges::max(PageBytes(layout_, Formats())) / kArenaUnitBytes),
        cache_(KvCache::Create(*device_, layout_, Formats(),
                               2 * NumPages() * page_units_ * kArenaUnitBytes)
                   .value()) {
    for (uint32_t i = 0; i < NumPages(); ++i) {
      page_map_.emplace_back(Tier::kHot, 2 * i * page_units_);
    }
  }

  int num_tokens() const { return static_cast<int>(tokens_.size()); }

  // Positions [first, first + count) in one step; their logits to standard output.
  void Read(int first, int count) {
    std::vector<int32_t> positions(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), first);
    std::vector<PageId> pages(page_map_.size());
    std::iota(pages.begin(), pages.end(), PageId{0});
    const std::vector<int32_t> starts = {0, count};
    const std::vector<int32_t> page_starts = {0, static_cast<int32_t>(pages.size())};
    const BatchView batch{.num_tokens = count,
                          .num_sequences = 1,
                          .sequence_starts = starts.data(),
                          .positions = positions.data(),
                          .page_starts = page_starts.data(),
                          .page_ids = pages.data(),
                          .tokens = tokens_.data() + first};
    model_.Forward(batch, cache_.view(page_map_), *stream_);
    for (int32_t row = 0; row < count; ++row) {
      const Tensor logits = model_.ComputeLogits(std::span(&row, 1), *stream_);
      std::fwrite(logits.f32(), sizeof(float), static_cast<size_t>(config_.vocab_size), stdout);
    }
  }

  void Move(int page, Tier tier) {
    PageEntry& entry = page_map_[static_cast<size_t>(page)];
    const PageMove move{.from = entry,
                        .to = PageEntry(tier, entry.unit() + page_units_),
                        .first_position = page * kPageTokens};
    MoveResult result;
    device_->ops().TranscodePages(std::span(&move, 1), cache_.view(page_map_),
                                  std::span(&result, 1), *stream_);
    CHECK(result.outcome == MoveResult::Outcome::kOk);
    entry = move.to;
  }

 private:
  KvFormats Formats() const {
    KvFormats formats = DefaultKvFormats(layout_);
    formats.key_bias = ReadKeyBias(config_, *file_, layout_);
    return formats;
  }
  uint32_t NumPages() const {
    return (static_cast<uint32_t>(tokens_.size()) + kPageTokens - 1) / kPageTokens;
  }

  std::unique_ptr<Checkpoint> file_;
  ModelConfig config_;
  std::unique_ptr<CpuDevice> device_;
  std::unique_ptr<Stream> stream_;
  std::vector<TokenId> tokens_;
  Transformer model_;
  KvLayout layout_;
  uint32_t page_units_;
  KvCache cache_;
  std::vector<PageEntry> page_map_;
};

int Run(std::span<char*> args) {
  std::vector<TokenId> tokens;
  for (TokenId token = 0; std::cin >> token;) {
    tokens.push_back(token);
  }
  Prompt prompt(args[1], std::string(args[2]) == "reference", std::move(tokens));
  if (args.size() == 3) {
    prompt.Read(0, prompt.num_tokens());
    return 0;
  }
  const std::string name = args[3];
  const Tier tier = name == "cold" ? Tier::kCold : name == "warm" ? Tier::kWarm : Tier::kHot;
  for (int first = 0; first < prompt.num_tokens(); first += kPageTokens) {
    if (first > 0 && tier != Tier::kHot) {
      prompt.Move(first / kPageTokens - 1, tier);
    }
    prompt.Read(first, std::min(kPageTokens, prompt.num_tokens() - first));
  }
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  return argc == 3 || argc == 4 ? thermocline::Run({argv, static_cast<size_t>(argc)}) : 2;
}
