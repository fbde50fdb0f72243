// What flags of the KV cache do to a model's next-token distribution. Reads texts through engines
// side by side, one whose pages all stay hot and one for each set of flags, a page of tokens a step
// so that pages cool before the next tokens read them, and compares the distributions.
//   kv_quality MODEL --text FILE --tokens N ... --flags "--kv-policy cold" ...
// The flags are those of `thermocline serve`. Prints one JSON object for each text and set of
// flags, with a value for each position.

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <span>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include "engine/baselines/evicting_runner.h"
#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "engine/model_runner.h"
#include "kernels/base/check.h"
#include "server/cli/command_line.h"

namespace thermocline {
namespace {

constexpr size_t kPageTokens = 64;
constexpr const char* kFixedFlags =
    "--max-num-batched-tokens 64 --max-num-seqs 1 --no-enable-prefix-caching "
    "--kv-cache-memory-bytes 512M --log-level warning";

class NoSink : public OutputSink {
 public:
  void OnDelta(OutputDelta /*delta*/) override {}
  void OnDone(const Status& status, const Usage& /*usage*/) override { CHECK(status.ok()); }
};

// One engine that is driven step by step and keeps the log probabilities after each token it reads.
class Reader {
 public:
  explicit Reader(const EngineConfig& config)
      : fidelity_(config.kv_fidelity), parts_(Load(config)) {
    auto* evicting = dynamic_cast<EvictingRunner*>(parts_.runner.get());
    auto* runner =
        dynamic_cast<ModelRunner*>(evicting == nullptr ? parts_.runner.get() : &evicting->runner());
    CHECK(runner != nullptr);
    runner->set_logits_observer([this](const LogitRow& /*row*/, std::span<const float> logits) {
      rows_.emplace_back(logits.begin(), logits.end());
    });
    core_ = std::make_unique<EngineCore>(parts_.scheduler, *parts_.pool, *parts_.runner,
                                         *parts_.tokenizer);
  }

  std::vector<TokenId> Encode(const std::string& text) const {
    return parts_.tokenizer->Encode(text, SpecialTokens::kPlain);
  }

  void Start(std::span<const TokenId> tokens) {
    rows_.clear();
    held_bytes_.clear();
    auto request = std::make_shared<Request>();
    request->id = ++last_id_;
    request->prompt.assign(tokens.begin(), tokens.end());
    request->stop.max_tokens = 1;
    request->sampling.temperature = 0;
    request->kv_fidelity = fidelity_;
    request->num_prompt_logprobs = 0;  // asks for the logits of every position
    core_->Add(request, std::make_unique<NoSink>());
    num_left_ = tokens.size();
  }

  // Reads a page more, or what is left. Log probabilities after each of its tokens, not yet
  // normalised.
  std::deque<std::vector<float>>& ReadPage() {
    rows_.clear();
    const size_t wanted = std::min(kPageTokens, num_left_);
    while (rows_.size() < wanted) {
      CHECK(core_->has_work() && core_->Step().ok());
      core_->Deliver();
    }
    CHECK(rows_.size() == wanted && core_->stats().scheduler.num_preemptions == 0);
    num_left_ -= wanted;
    if (num_left_ > 0) {  // else all is given back already
      const EngineStats stats = core_->stats();
      held_bytes_.push_back(std::accumulate(stats.arena.tier_bytes.begin(),
                                            stats.arena.tier_bytes.end(), uint64_t{0}));
    }
    return rows_;
  }

  // Of the arena, by the pages that hold the text, after each page of it but the last.
  const std::vector<uint64_t>& held_bytes() const { return held_bytes_; }

 private:
  static EngineParts Load(const EngineConfig& config) {
    Result<EngineParts> parts = LoadEngineParts(config);
    if (!parts.ok()) {
      fmt::print(stderr, "{}\n", parts.status().message());
      std::exit(1);
    }
    if (const Status status = CalibrateNow(*parts); !status.ok()) {
      fmt::print(stderr, "{}\n", status.message());
      std::exit(1);
    }
    return *std::move(parts);
  }

  KvFidelity fidelity_;
  EngineParts parts_;
  std::unique_ptr<EngineCore> core_;
  RequestId last_id_ = 0;
  size_t num_left_ = 0;                  // tokens yet to be read
  std::deque<std::vector<float>> rows_;  // of the last page
  std::vector<uint64_t> held_bytes_;
};

void ToLogProbabilities(std::span<float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(logit - max);
  }
  const auto shift = static_cast<float>(max + std::log(sum));
  for (float& logit : logits) {
    logit -= shift;
  }
}

// Of one text under one set of flags, by position.
struct Loss {
  std::vector<double> divergences;  // KL(hot || flags), nats
  std::vector<int> same_top;        // 1: both hold the same token most likely
  std::vector<float> nll_hot;       // of the text's next token
  std::vector<float> nll;

  void Add(std::span<const float> hot, std::span<const float> other, TokenId next) {
    double divergence = 0;
    for (size_t i = 0; i < hot.size(); ++i) {
      divergence += double{std::exp(hot[i])} * (double{hot[i]} - double{other[i]});
    }
    divergences.push_back(divergence);
    const auto top = [](std::span<const float> row) {
      return std::max_element(row.begin(), row.end()) - row.begin();
    };
    same_top.push_back(top(hot) == top(other) ? 1 : 0);
    nll_hot.push_back(-hot[static_cast<size_t>(next)]);
    nll.push_back(-other[static_cast<size_t>(next)]);
  }

  void Print(const std::string& text, const std::string& flags, const Reader& hot,
             const Reader& reader) const {
    fmt::print(
        "{{\"text\": \"{}\", \"flags\": \"{}\", \"held_hot\": [{}], \"held\": [{}], "
        "\"kl\": [{:.3e}], \"same_top\": [{}], \"nll_hot\": [{:.5f}], \"nll\": [{:.5f}]}}\n",
        text, flags, fmt::join(hot.held_bytes(), ", "), fmt::join(reader.held_bytes(), ", "),
        fmt::join(divergences, ", "), fmt::join(same_top, ", "), fmt::join(nll_hot, ", "),
        fmt::join(nll, ", "));
    std::fflush(stdout);
  }
};

// As `thermocline serve MODEL` with these flags understands them.
EngineConfig ParseFlags(const std::string& model, const std::string& flags) {
  std::istringstream words(fmt::format("kv_quality serve {} {}", kFixedFlags, flags));
  std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
  arguments.push_back(model);
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(argument.c_str());
  }
  auto parsed = ParseCommandLine(static_cast<int>(argv.size()), argv.data(), "");
  if (const int* code = std::get_if<int>(&parsed)) {
    std::exit(*code);
  }
  return std::get<ServeOptions>(std::get<CommandLine>(parsed).command).engine;
}

struct Options {
  std::string model;
  std::vector<std::string> texts;  // paths
  std::vector<int> num_tokens;     // at most, of each text
  std::vector<std::string> flags;
};

// readers[0] is hot, the others are of `flags`.
void Compare(std::span<const std::unique_ptr<Reader>> readers, std::span<const TokenId> tokens,
             const std::string& path, std::span<const std::string> flags) {
  for (const std::unique_ptr<Reader>& reader : readers) {
    reader->Start(tokens);
  }
  std::vector<Loss> losses(flags.size());
  for (size_t begin = 0; begin < tokens.size(); begin += kPageTokens) {
    std::deque<std::vector<float>>& hot = readers[0]->ReadPage();
    for (std::vector<float>& row : hot) {
      ToLogProbabilities(row);
    }
    for (size_t i = 0; i < flags.size(); ++i) {
      std::deque<std::vector<float>>& rows = readers[i + 1]->ReadPage();
      for (size_t k = 0; k < rows.size() && begin + k + 1 < tokens.size(); ++k) {
        ToLogProbabilities(rows[k]);
        losses[i].Add(hot[k], rows[k], tokens[begin + k + 1]);
      }
    }
    if (begin / kPageTokens % 16 == 15) {
      fmt::print(stderr, "  {}: {} of {} tokens\n", path, begin + kPageTokens, tokens.size());
    }
  }
  for (size_t i = 0; i < flags.size(); ++i) {
    losses[i].Print(path, flags[i], *readers[0], *readers[i + 1]);
  }
}

void Run(const Options& options) {
  std::vector<std::unique_ptr<Reader>> readers;
  readers.push_back(std::make_unique<Reader>(ParseFlags(options.model, "--kv-policy hot")));
  for (const std::string& flags : options.flags) {
    readers.push_back(std::make_unique<Reader>(ParseFlags(options.model, flags)));
  }
  for (size_t i = 0; i < options.texts.size(); ++i) {
    std::ifstream file(options.texts[i]);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    std::vector<TokenId> tokens = readers[0]->Encode(text);
    tokens.resize(std::min(tokens.size(), static_cast<size_t>(options.num_tokens[i])));
    Compare(readers, tokens, options.texts[i], options.flags);
  }
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  CLI::App app("Compares next-token distributions under flags of the KV cache with all-hot ones.");
  thermocline::Options options;
  app.add_option("MODEL", options.model)->required()->check(CLI::ExistingFile);
  app.add_option("--text", options.texts, "A file; may be repeated")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--tokens", options.num_tokens, "Of each text, at most")->required();
  app.add_option("--flags", options.flags, "Of `thermocline serve`; may be repeated")
      ->required()
      ->allow_extra_args(false);
  CLI11_PARSE(app, argc, argv);
  if (options.num_tokens.size() != options.texts.size()) {
    fmt::print(stderr, "give --tokens once for each --text\n");
    return 2;
  }
  thermocline::Run(options);
  return 0;
}
