// What pages of one tier do to a model's next-token distribution: reads a text twice side by side,
// once with every page hot and once with the pages outside the first one and the recent window
// forced to a tier before the next tokens read them, and compares the distributions.
//   tier_loss MODEL TEXT CALIBRATION_TEXT NUM_TOKENS
// Mean keys are of the calibration text, which should be another one. Prints one JSON object a
// line.

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/loader/gguf.h"
#include "engine/model/transformer.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;
constexpr int kWindowPages = 3;  // before the page that is being written

// One sequence with a cache of its own: each page has a hot place and one in the tier.
class Reader {
 public:
  Reader(Transformer& model, CpuDevice& device, const KvLayout& layout,
         const std::optional<KeyBias>& key_bias, int num_pages)
      : model_(model),
        device_(device),
        stream_(device.NewStream()),
        page_bytes_(PageBytes(layout)),
        cache_(KvCache::Create(device, layout, ArenaBytes(num_pages)).value()) {
    cache_.set_key_bias(key_bias);
    for (int i = 0; i < num_pages; ++i) {
      page_map_.push_back(Place(Tier::kHot, i));
      page_ids_.push_back(static_cast<PageId>(i));
    }
  }

  void set_mean_keys(const std::vector<float>* mean_keys) { mean_keys_ = mean_keys; }

  // Forces pages 1 .. page - kWindowPages - 1 to the tier, then reads one page of tokens. Logits
  // [kPageTokens, vocabulary].
  std::vector<float> ReadPage(std::span<const TokenId> tokens, int page, Tier tier) {
    if (const int oldest = page - kWindowPages - 1; oldest >= 1 && tier != Tier::kHot) {
      Move(oldest, tier);
    }
    std::vector<int32_t> positions(kPageTokens);
    for (int i = 0; i < kPageTokens; ++i) {
      positions[static_cast<size_t>(i)] = page * kPageTokens + i;
    }
    const std::vector<int32_t> starts = {0, kPageTokens};
    const std::vector<int32_t> page_starts = {0, page + 1};
    const BatchView batch{.num_tokens = kPageTokens,
                          .num_sequences = 1,
                          .sequence_starts = starts.data(),
                          .positions = positions.data(),
                          .page_starts = page_starts.data(),
                          .page_ids = page_ids_.data()};
    model_.Forward(tokens.subspan(static_cast<size_t>(page * kPageTokens), kPageTokens), batch,
                   view(), *stream_);
    std::vector<int32_t> rows(kPageTokens);
    for (int i = 0; i < kPageTokens; ++i) {
      rows[static_cast<size_t>(i)] = i;
    }
    const Tensor logits = model_.ComputeLogits(rows, *stream_);
    CHECK(stream_->Sync().ok());
    return {logits.f32(), logits.f32() + logits.num_elements()};
  }

  KvCacheView view() const {
    KvCacheView view = cache_.view(page_map_);
    view.mean_keys = mean_keys_ == nullptr ? nullptr : mean_keys_->data();
    return view;
  }

 private:
  uint32_t Units(Tier tier) const {
    return static_cast<uint32_t>(page_bytes_[static_cast<size_t>(tier)] / kArenaUnitBytes);
  }
  uint64_t ArenaBytes(int num_pages) const {
    return 2 * static_cast<uint64_t>(num_pages) * Units(Tier::kHot) * kArenaUnitBytes;
  }
  // Hot places are even, the others odd.
  PageEntry Place(Tier tier, int page) const {
    const uint32_t index = 2 * static_cast<uint32_t>(page) + (tier == Tier::kHot ? 0 : 1);
    return {tier, index * Units(Tier::kHot)};
  }
  void Move(int page, Tier tier) {
    const PageMove move{.page = static_cast<PageId>(page),
                        .from = page_map_[static_cast<size_t>(page)],
                        .to = Place(tier, page),
                        .first_position = page * kPageTokens};
    MoveResult result;
    device_.ops().TranscodePages(std::span(&move, 1), view(), std::span(&result, 1), *stream_);
    CHECK(stream_->Sync().ok() && result.outcome == MoveResult::Outcome::kOk);
    page_map_[static_cast<size_t>(page)] = move.to;
  }

  Transformer& model_;
  CpuDevice& device_;
  std::unique_ptr<Stream> stream_;
  std::array<uint32_t, kNumTiers> page_bytes_;
  KvCache cache_;
  std::vector<PageEntry> page_map_;
  std::vector<PageId> page_ids_;
  const std::vector<float>* mean_keys_ = nullptr;
};

// The mean key of each layer and KV head over a text, its first page and the projection's bias left
// out.
std::vector<float> MeanKeys(Reader& reader, const KvLayout& layout,
                            std::span<const TokenId> tokens) {
  const int num_pages = static_cast<int>(tokens.size()) / kPageTokens;
  const auto dim = static_cast<size_t>(layout.head_dim);
  std::vector<float> means;
  for (int page = 0; page < num_pages; ++page) {
    reader.ReadPage(tokens, page, Tier::kHot);
  }
  std::vector<float> k(kPageTokens * dim);
  std::vector<float> v(k.size());
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    for (int head = 0; head < layout.num_kv_heads; ++head) {
      std::vector<double> sums(dim, 0.0);
      for (int page = 1; page < num_pages; ++page) {
        DecodeBlock(Codec::kNative, layout,
                    reader.view().block(static_cast<PageId>(page), layer, head), k.data(),
                    v.data());
        AddKeyBias(reader.view(), layer, head, page * kPageTokens, -1.0F, k.data());
        for (size_t i = 0; i < k.size(); ++i) {
          sums[i % dim] += k[i];
        }
      }
      for (const double sum : sums) {
        means.push_back(static_cast<float>(sum / (kPageTokens * (num_pages - 1))));
      }
    }
  }
  return means;
}

void ToLogProbabilities(std::span<float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit - max));
  }
  const auto shift = static_cast<float>(max + std::log(sum));
  for (float& logit : logits) {
    logit -= shift;
  }
}

struct Loss {
  std::vector<double> divergences;
  double nll_hot = 0;
  double nll = 0;
  int num_same_top = 0;

  void Add(std::span<const float> hot, std::span<const float> tier, TokenId next) {
    double divergence = 0;
    for (size_t i = 0; i < hot.size(); ++i) {
      divergence +=
          std::exp(static_cast<double>(hot[i])) * (static_cast<double>(hot[i]) - double{tier[i]});
    }
    divergences.push_back(divergence);
    nll_hot -= hot[static_cast<size_t>(next)];
    nll -= tier[static_cast<size_t>(next)];
    const auto top = [](std::span<const float> row) {
      return std::max_element(row.begin(), row.end()) - row.begin();
    };
    num_same_top += top(hot) == top(tier) ? 1 : 0;
  }

  void Print(const char* name) {
    std::sort(divergences.begin(), divergences.end());
    const auto count = static_cast<double>(divergences.size());
    double sum = 0;
    for (const double divergence : divergences) {
      sum += divergence;
    }
    fmt::print(
        "{{\"pages\": \"{}\", \"positions\": {}, \"mean_kl\": {:.6f}, \"p99_kl\": {:.5f}, "
        "\"top1\": {:.4f}, \"perplexity_hot\": {:.3f}, \"perplexity_change\": {:.5f}}}\n",
        name, divergences.size(), sum / count, divergences[static_cast<size_t>(0.99 * (count - 1))],
        num_same_top / count, std::exp(nll_hot / count), std::exp((nll - nll_hot) / count) - 1);
    std::fflush(stdout);
  }
};

std::vector<TokenId> ReadTokens(const Tokenizer& tokenizer, const char* path, size_t num_tokens) {
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::vector<TokenId> tokens = tokenizer.Encode(text, SpecialTokens::kPlain);
  tokens.resize(std::min(tokens.size(), num_tokens) / kPageTokens * kPageTokens);
  CHECK(tokens.size() > size_t{kWindowPages + 3} * kPageTokens);
  return tokens;
}

int Run(const char* model_path, const char* text, const char* calibration, int num_tokens) {
  const auto file = GgufFile::Open(model_path).value();
  const ModelConfig config = ReadModelConfig(*file).value();
  const auto tokenizer = LoadTokenizer(*file).value();
  const auto device = CpuDevice::Create({.num_threads = 2}).value();
  Transformer model =
      Transformer::Load(config, *file, *device, device->ops(), kPageTokens, {}).value();
  const KvLayout layout = MakeKvLayout(config, kPageTokens);
  const std::vector<TokenId> tokens = ReadTokens(*tokenizer, text, static_cast<size_t>(num_tokens));
  const int num_pages = static_cast<int>(tokens.size()) / kPageTokens;
  const std::vector<TokenId> other = ReadTokens(*tokenizer, calibration, 2048);
  const std::optional<KeyBias> key_bias = ReadKeyBias(config, *file, layout);
  Reader calibrated(model, *device, layout, key_bias, static_cast<int>(other.size()) / kPageTokens);
  const std::vector<float> mean_keys = MeanKeys(calibrated, layout, other);

  struct Format {
    const char* name;
    Tier tier;
    bool mean;
  };
  for (const Format format : {Format{"warm", Tier::kWarm, true}, Format{"cold", Tier::kCold, true},
                              Format{"cold, mean kept", Tier::kCold, false}}) {
    Reader hot(model, *device, layout, key_bias, num_pages);
    Reader tier(model, *device, layout, key_bias, num_pages);
    tier.set_mean_keys(format.mean ? &mean_keys : nullptr);
    Loss loss;
    for (int page = 0; page < num_pages; ++page) {
      std::vector<float> want = hot.ReadPage(tokens, page, Tier::kHot);
      std::vector<float> got = tier.ReadPage(tokens, page, format.tier);
      const size_t width = want.size() / kPageTokens;
      for (size_t i = 0; i < kPageTokens && page > kWindowPages + 1; ++i) {
        const size_t next = static_cast<size_t>(page) * kPageTokens + i + 1;
        if (next < tokens.size()) {
          const std::span<float> want_row(want.data() + i * width, width);
          const std::span<float> got_row(got.data() + i * width, width);
          ToLogProbabilities(want_row);
          ToLogProbabilities(got_row);
          loss.Add(want_row, got_row, tokens[next]);
        }
      }
    }
    loss.Print(format.name);
  }
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  if (argc != 5) {
    fmt::print(stderr, "usage: {} MODEL TEXT CALIBRATION_TEXT NUM_TOKENS\n", argv[0]);
    return 2;
  }
  return thermocline::Run(argv[1], argv[2], argv[3], std::stoi(argv[4]));
}
