// The CPU's products and attention on one core, beside what the core can do at best.

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "benchmarks/kernels/machine_peak.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

// Of the machine, measured once before the first benchmark.
struct Peaks {
  double read_bytes = MeasureReadBandwidth();
  double int8_macs = MeasureInt8Peak();
};

// y [num_tokens, rows] = x w^T. `products` are the format's: a weight times an activation, which
// is two 8-bit products in integer kinds.
void MatMul(benchmark::State& state, const Peaks& peaks, WeightType type, int64_t rows,
            int64_t cols) {
  const int64_t num_tokens = state.range(0);
  const auto device = CpuDevice::Create({.num_threads = 1}).value();
  const auto stream = device->NewStream();
  const RandomWeight random = MakeRandomWeight(type, rows, cols, 1);
  const auto weight = device->ops().PrepareWeight(std::span(&random.source, 1)).value();
  std::vector<float> x = RandomFloats(static_cast<size_t>(num_tokens * cols), 2);
  std::vector<float> y(static_cast<size_t>(num_tokens * rows));
  for (auto _ : state) {
    device->ops().MatMul(Tensor(x.data(), {num_tokens, cols}), *weight,
                         Tensor(y.data(), {num_tokens, rows}), MatMulMode::kStore, *stream);
    benchmark::DoNotOptimize(y.data());
  }
  using benchmark::Counter;
  const auto iterations = static_cast<double>(state.iterations());
  const double macs = static_cast<double>(num_tokens * rows * cols) * iterations;
  const double bytes = static_cast<double>(weight->num_bytes()) * iterations;
  state.counters["MAC/s"] = Counter(macs, Counter::kIsRate);
  state.counters["weight_bytes/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["read_peak"] = peaks.read_bytes;
  if (GetWeightTypeInfo(type)->block_elements > 1) {
    state.counters["int8_MAC/s"] = Counter(2 * macs, Counter::kIsRate);
    state.counters["int8_peak"] = peaks.int8_macs;
  }
}

// One layer of SmolLM2-135M's shape: the last `num_tokens` of a context attend to all of it.
void Attention(benchmark::State& state, const Peaks& peaks) {
  constexpr int kHeads = 9;
  const KvLayout layout{.num_layers = 1, .num_kv_heads = 3, .head_dim = 64, .page_tokens = 64};
  const auto context = static_cast<int>(state.range(0));
  const auto num_tokens = static_cast<int>(state.range(1));
  const int num_pages = (context + layout.page_tokens - 1) / layout.page_tokens;
  const auto device = CpuDevice::Create({.num_threads = 1}).value();
  const auto stream = device->NewStream();

  const size_t page_bytes = size_t{3} * NativeHeadBytes(layout);
  Buffer arena =
      device->Allocate(page_bytes * static_cast<size_t>(num_pages), Placement::kDevice).value();
  auto* halves = reinterpret_cast<uint16_t*>(arena.data());
  for (size_t i = 0; i < arena.bytes() / 2; ++i) {
    halves[i] = static_cast<uint16_t>(0x3000 | (i * 2654435761U >> 22U));  // 0.125 .. 0.25
  }
  std::vector<PageEntry> page_map;
  for (int p = 0; p < num_pages; ++p) {
    page_map.emplace_back(
        Tier::kHot, static_cast<uint32_t>(static_cast<size_t>(p) * page_bytes / kArenaUnitBytes));
  }
  const std::vector<LayerFormat> formats(
      kNumTiers, {.codec = Codec::kNative, .head_stride = NativeHeadBytes(layout)});
  std::vector<PageId> page_ids(static_cast<size_t>(num_pages));
  std::iota(page_ids.begin(), page_ids.end(), 0U);
  std::vector<int32_t> positions(static_cast<size_t>(num_tokens));
  std::iota(positions.begin(), positions.end(), context - num_tokens);
  const std::vector<int32_t> sequence_starts = {0, num_tokens};
  const std::vector<int32_t> page_starts = {0, num_pages};
  const BatchView batch{.num_tokens = num_tokens,
                        .num_sequences = 1,
                        .sequence_starts = sequence_starts.data(),
                        .positions = positions.data(),
                        .page_starts = page_starts.data(),
                        .page_ids = page_ids.data()};
  const KvCacheView kv{arena.data(), page_map.data(), formats.data(), layout};
  std::vector<float> qkv = RandomFloats(static_cast<size_t>(num_tokens) * 15 * 64, 3);
  std::vector<float> out(static_cast<size_t>(num_tokens) * kHeads * 64);
  for (auto _ : state) {
    device->ops().PagedAttention(Tensor(qkv.data(), {num_tokens, 15 * 64}), kHeads, batch, kv,
                                 {.layer = 0, .scale = 0.125F},
                                 Tensor(out.data(), {num_tokens, kHeads * 64}), *stream);
    benchmark::DoNotOptimize(out.data());
  }
  using benchmark::Counter;
  const double bytes =
      static_cast<double>(page_bytes) * num_pages * static_cast<double>(state.iterations());
  state.counters["kv_bytes/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["read_peak"] = peaks.read_bytes;
}

void RegisterAll(const Peaks& peaks) {
  struct Shape {
    int64_t rows, cols;
  };
  for (const Shape shape : {Shape{1536, 576}, Shape{576, 1536}, Shape{49152, 576}}) {
    const std::string name = fmt::format("MatMul/Q4_1/{}x{}/tokens", shape.rows, shape.cols);
    auto* bench = benchmark::RegisterBenchmark(name.c_str(), [=, &peaks](benchmark::State& state) {
      MatMul(state, peaks, WeightType::kQ4_1, shape.rows, shape.cols);
    });
    bench->Arg(1)->Arg(8)->Arg(240);
  }
  for (const WeightType type : kAllWeightTypes) {
    const std::string name =
        fmt::format("MatMul/{}/1536x768/tokens", GetWeightTypeInfo(type)->name);
    auto* bench = benchmark::RegisterBenchmark(name.c_str(), [=, &peaks](benchmark::State& state) {
      MatMul(state, peaks, type, 1536, 768);
    });
    bench->Arg(1)->Arg(240);
  }
  auto* bench = benchmark::RegisterBenchmark(
      "Attention/context/tokens", [&peaks](benchmark::State& state) { Attention(state, peaks); });
  bench->Args({512, 1})->Args({4096, 1})->Args({8192, 1})->Args({512, 512})->Args({4096, 512});
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const thermocline::Peaks peaks;
  fmt::print("one core: reads {:.1f} GB/s, int8 {:.0f} GMAC/s\n", peaks.read_bytes / 1e9,
             peaks.int8_macs / 1e9);
  thermocline::RegisterAll(peaks);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
