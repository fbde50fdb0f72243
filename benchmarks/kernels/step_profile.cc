// Where the time of a real model's step goes:
//   step_profile MODEL NUM_THREADS ROUNDS
// One JSON object a line for each kind of step: wall milliseconds of the whole step and of each
// operation in it, all layers together, as the median over the rounds. The kinds take turns.

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/kernels/bench_device.h"
#include "engine/kv/kv_cache.h"
#include "engine/loader/checkpoint.h"
#include "engine/model/transformer.h"
#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr int kPageTokens = 64;
constexpr int kMaxTokens = 512;
constexpr int kDecodeContext = 100;

double Milliseconds(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

// Another Ops, with a stopwatch around each operation.
class TimedOps final : public Ops {
 public:
  explicit TimedOps(const Ops& ops) : ops_(ops) {}

  std::map<std::string, double> TakeTimes() { return std::exchange(times_, {}); }

  Result<std::unique_ptr<Weight>> PrepareWeight(
      std::span<const WeightSource> parts) const override {
    return ops_.PrepareWeight(parts);
  }
  bool is_batch_invariant() const override { return ops_.is_batch_invariant(); }
  std::unique_ptr<StepData> NewStepData(const StepLimits& limits,
                                        const KvLayout& layout) const override {
    return ops_.NewStepData(limits, layout);
  }
  void LoadStep(const BatchView& batch, const KvCacheView& kv, Stream& stream) const override {
    Time("load", [&] { ops_.LoadStep(batch, kv, stream); });
  }
  void Embed(const BatchView& batch, const Weight& table, Tensor out,
             Stream& stream) const override {
    Time("embed", [&] { ops_.Embed(batch, table, out, stream); });
  }
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out,
                  Stream& stream) const override {
    Time("gather", [&] { ops_.GatherRows(x, rows, out, stream); });
  }
  void RmsNorm(Tensor x, Tensor gain, float epsilon, Tensor y, Stream& stream) const override {
    Time("norm", [&] { ops_.RmsNorm(x, gain, epsilon, y, stream); });
  }
  void MatMul(Tensor x, const Weight& w, Tensor y, MatMulMode mode, Stream& stream) const override {
    Time(fmt::format("matmul {}x{}", w.rows(), w.cols()),
         [&] { ops_.MatMul(x, w, y, mode, stream); });
  }
  void AddBias(Tensor x, Tensor bias, Stream& stream) const override {
    Time("bias", [&] { ops_.AddBias(x, bias, stream); });
  }
  void Rope(Tensor qkv, int num_heads, int head_dim, Tensor cos_sin, RopeStyle style,
            Stream& stream) const override {
    Time("rope", [&] { ops_.Rope(qkv, num_heads, head_dim, cos_sin, style, stream); });
  }
  void Rotate(Tensor x, int num_heads, Tensor signs, Rotation rotation,
              Stream& stream) const override {
    Time("rotate", [&] { ops_.Rotate(x, num_heads, signs, rotation, stream); });
  }
  void AppendKv(Tensor qkv, int k_column, int v_column, const BatchView& batch,
                const KvCacheView& kv, int layer, Stream& stream) const override {
    Time("append", [&] { ops_.AppendKv(qkv, k_column, v_column, batch, kv, layer, stream); });
  }
  void PagedAttention(Tensor qkv, int num_heads, const BatchView& batch, const KvCacheView& kv,
                      const AttentionParams& params, Tensor out, Stream& stream) const override {
    Time("attention", [&] { ops_.PagedAttention(qkv, num_heads, batch, kv, params, out, stream); });
  }
  void FoldEnergies(Tensor energies, Tensor heat, Stream& stream) const override {
    ops_.FoldEnergies(energies, heat, stream);
  }
  void TranscodePages(std::span<const PageMove> moves, const KvCacheView& kv,
                      std::span<MoveResult> results, Stream& stream) const override {
    ops_.TranscodePages(moves, kv, results, stream);
  }
  void GatedActivation(Tensor gate_up, Activation activation, Tensor out,
                       Stream& stream) const override {
    Time("activation", [&] { ops_.GatedActivation(gate_up, activation, out, stream); });
  }
  void DrawTokens(Tensor logits, int vocab_size, std::span<const RowDraw> draws, TokenId* tokens,
                  Stream& stream) const override {
    Time("draw", [&] { ops_.DrawTokens(logits, vocab_size, draws, tokens, stream); });
  }

 private:
  template <typename Work>
  void Time(const std::string& name, Work work) const {
    const auto begin = std::chrono::steady_clock::now();
    work();
    times_[name] += Milliseconds(begin);
  }

  const Ops& ops_;
  mutable std::map<std::string, double> times_;  // one thread calls, as the engine's does
};

// `num_sequences` sequences of `num_tokens` tokens each after `context` others, over pages of
// zeros: attention costs what it costs over any.
struct Step {
  std::string name;
  std::vector<TokenId> tokens;
  std::vector<int32_t> sequence_starts{0}, positions, page_starts{0}, last_rows;
  std::vector<PageId> page_ids;

  Step(std::string step_name, int num_sequences, int num_tokens, int context)
      : name(std::move(step_name)) {
    const int num_pages = (context + num_tokens + kPageTokens - 1) / kPageTokens;
    for (int s = 0; s < num_sequences; ++s) {
      for (int t = 0; t < num_tokens; ++t) {
        tokens.push_back(1000 + 37 * s + 11 * t);
        positions.push_back(context + t);
      }
      sequence_starts.push_back(static_cast<int32_t>(tokens.size()));
      last_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
      for (int p = 0; p < num_pages; ++p) {
        page_ids.push_back(static_cast<PageId>(page_ids.size()));
      }
      page_starts.push_back(static_cast<int32_t>(page_ids.size()));
    }
  }

  BatchView view() const {
    return {static_cast<int>(tokens.size()),
            static_cast<int>(last_rows.size()),
            sequence_starts.data(),
            positions.data(),
            page_starts.data(),
            page_ids.data(),
            tokens.data()};
  }
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Run(const char* model_path, int num_threads, int rounds) {
  const auto file = OpenCheckpoint(model_path).value();
  const ModelConfig config = ReadModelConfig(*file).value();
  const auto device = BenchDevice(num_threads);
  TimedOps ops(device->ops());
  Transformer model = Transformer::Load(config, *file, *device, ops, kMaxTokens, {}).value();
  const std::vector<Step> steps = {
      Step("prefill 512", 1, 512, 0), Step("decode 1", 1, 1, kDecodeContext),
      Step("decode 8", 8, 1, kDecodeContext), Step("decode 32", 32, 1, kDecodeContext)};
  const KvLayout layout = MakeKvLayout(config, kPageTokens);
  const KvFormats formats = DefaultKvFormats(layout);
  const uint32_t units =
      PageBytes(layout, formats)[static_cast<size_t>(Tier::kHot)] / kArenaUnitBytes;
  std::vector<PageEntry> page_map;
  for (uint32_t p = 0; p < 64; ++p) {
    page_map.emplace_back(Tier::kHot, p * units);
  }
  const KvCache cache =
      KvCache::Create(*device, layout, formats, uint64_t{64} * units * kArenaUnitBytes).value();
  const auto stream = device->NewStream();

  std::vector<std::map<std::string, std::vector<double>>> samples(steps.size());
  for (int round = -2; round < rounds; ++round) {  // two to warm up
    for (size_t i = 0; i < steps.size(); ++i) {
      ops.TakeTimes();
      const auto begin = std::chrono::steady_clock::now();
      model.Forward(steps[i].view(), cache.view(page_map), *stream);
      model.ComputeLogits(steps[i].last_rows, *stream);
      CHECK(stream->Sync().ok());
      const double step = Milliseconds(begin);
      double inside = 0;
      for (const auto& [name, time] : ops.TakeTimes()) {
        inside += time;
        if (round >= 0) {
          samples[i][name].push_back(time);
        }
      }
      if (round >= 0) {
        samples[i]["step"].push_back(step);
        samples[i]["rest"].push_back(step - inside);
      }
    }
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    fmt::print("{{\"work\": \"{}\", \"threads\": {}, \"samples\": {}", steps[i].name, num_threads,
               rounds);
    for (const auto& [name, times] : samples[i]) {
      fmt::print(", \"{}\": {:.3f}", name, Median(times));
    }
    fmt::print("}}\n");
  }
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: step_profile MODEL NUM_THREADS ROUNDS\n");
    return 2;
  }
  return thermocline::Run(argv[1], std::stoi(argv[2]), std::stoi(argv[3]));
}
