// How fast text becomes tokens: English prose and source code, and runs that would be slow were
// merging quadratic. Bytes per second of one core.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "engine/loader/checkpoint.h"
#include "engine/text/tokenizer.h"

namespace thermocline {
namespace {

constexpr size_t kTextBytes = size_t{4} << 20;

std::unique_ptr<Tokenizer> Load(const std::string& pre_tokenizer) {
  auto file = OpenCheckpoint(THERMOCLINE_TEST_MODEL);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.status().message().c_str());
    return nullptr;
  }
  auto tokenizer = LoadTokenizer(**file, {.pre_tokenizer = pre_tokenizer});
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::string Repeat(const std::string& piece) {
  std::string text;
  while (!piece.empty() && text.size() < kTextBytes) {
    text += piece;
  }
  return text;
}

std::string RepeatFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return Repeat(std::string(std::istreambuf_iterator<char>(file), {}));
}

void BenchEncode(benchmark::State& state, const std::string& pre_tokenizer,
                 const std::string& text) {
  const std::unique_ptr<Tokenizer> tokenizer = Load(pre_tokenizer);
  if (tokenizer == nullptr || text.empty()) {
    state.SkipWithError("no model or no text");
    return;
  }
  size_t num_tokens = 0;
  for (auto _ : state) {
    num_tokens = tokenizer->Encode(text, SpecialTokens::kPlain).size();
    benchmark::DoNotOptimize(num_tokens);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] =
      static_cast<double>(text.size()) / static_cast<double>(num_tokens);
}

void BenchLoad(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(Load("smollm"));
  }
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  using thermocline::BenchEncode;
  // tokenizer_bench [FILE]: a text in place of the English one.
  benchmark::Initialize(&argc, argv);
  const std::string english = argc > 1 ? argv[1] : "/usr/share/common-licenses/GPL-3";
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    benchmark::RegisterBenchmark((std::string("English/") + pre).c_str(), BenchEncode,
                                 std::string(pre), thermocline::RepeatFile(english));
  }
  benchmark::RegisterBenchmark("Code/smollm", BenchEncode, std::string("smollm"),
                               thermocline::RepeatFile(__FILE__));
  const std::pair<const char*, const char*> runs[] = {
      {"letters", "a"}, {"spaces", " "}, {"digits", "7"}, {"marks", "\xcc\x81\xcc\xa3"}};
  for (const auto& [name, piece] : runs) {
    benchmark::RegisterBenchmark((std::string("Run/qwen2/") + name).c_str(), BenchEncode,
                                 std::string("qwen2"), thermocline::Repeat(piece));
  }
  benchmark::RegisterBenchmark("Load/smollm", thermocline::BenchLoad);
  benchmark::RunSpecifiedBenchmarks();
}
