// The CPU's products and attention on one core, beside what the core can do at best.

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/kernels/bench_device.h"
#include "benchmarks/kernels/machine_peak.h"
#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "kernels/quant/key_bias.h"
#include "kernels/quant/page_codec.h"
#include "tests/testing/random_weights.h"

namespace thermocline {
namespace {

// The machine's peaks, measured once before the first benchmark.
struct Peaks {
  double read_bytes = MeasureReadBandwidth();
  double int8_macs = MeasureInt8Peak();
};

// y [num_tokens, rows] = x w^T. `products` are the format's: a weight times an activation, which
// is two 8-bit products in integer kinds.
void MatMul(benchmark::State& state, const Peaks& peaks, WeightType type, int64_t rows,
            int64_t cols) {
  const int64_t num_tokens = state.range(0);
  const auto device = BenchDevice(1);
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
void Attention(benchmark::State& state, const Peaks& peaks, Codec codec, bool has_key_bias) {
  constexpr int kHeads = 9;
  const KvLayout layout{.num_layers = 1, .num_kv_heads = 3, .head_dim = 64, .page_tokens = 64};
  const auto context = static_cast<int>(state.range(0));
  const auto num_tokens = static_cast<int>(state.range(1));
  const int num_pages = (context + layout.page_tokens - 1) / layout.page_tokens;
  const auto device = BenchDevice(1);
  const auto stream = device->NewStream();

  const uint32_t head_bytes = BlockLayoutOf(codec, layout).bytes;
  const size_t page_bytes =
      (size_t{3} * head_bytes + kArenaUnitBytes - 1) / kArenaUnitBytes * kArenaUnitBytes;
  Buffer arena =
      device->Allocate(page_bytes * static_cast<size_t>(num_pages), Placement::kDevice).value();
  const std::vector<float> vectors = RandomFloats(64 * 64, 4);
  for (size_t p = 0; p < static_cast<size_t>(num_pages); ++p) {
    for (size_t h = 0; h < 3; ++h) {
      const Status status =
          EncodeBlock(codec, layout, ReferenceQuantizer(), vectors.data(), vectors.data(),
                      arena.data() + p * page_bytes + h * head_bytes);
      CHECK(status.ok());
    }
  }
  std::vector<PageEntry> page_map;
  for (int p = 0; p < num_pages; ++p) {
    page_map.emplace_back(
        Tier::kHot, static_cast<uint32_t>(static_cast<size_t>(p) * page_bytes / kArenaUnitBytes));
  }
  const std::vector<LayerFormat> formats(kNumTiers, {.codec = codec, .head_stride = head_bytes});
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
  const std::vector<float> biases = RandomFloats(3 * 64, 5);
  const std::vector<float> frequencies = RandomFloats(32, 6);
  const std::vector<float> signs(64, 1.0F);
  const KeyBias key_bias(layout, biases, {.frequencies = frequencies}, signs, context);
  KvCacheView kv{arena.data(), page_map.data(), formats.data(), layout};
  if (has_key_bias) {
    kv.key_bias = key_bias.view();
  }
  std::vector<float> qkv = RandomFloats(static_cast<size_t>(num_tokens) * 15 * 64, 3);
  std::vector<float> out(static_cast<size_t>(num_tokens) * kHeads * 64);
  for (auto _ : state) {
    device->ops().PagedAttention(Tensor(qkv.data(), {num_tokens, 15 * 64}), kHeads, batch, kv,
                                 {.layer = 0, .scale = 0.125F},
                                 Tensor(out.data(), {num_tokens, kHeads * 64}), *stream);
    benchmark::DoNotOptimize(out.data());
  }
  using benchmark::Counter;
  const double bytes = 3.0 * head_bytes * num_pages * static_cast<double>(state.iterations());
  state.counters["kv_bytes/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["read_peak"] = peaks.read_bytes;
}

// One page of SmolLM2-135M from one tier to another: pages follow each other in 24 MiB of hot ones.
void Transcode(benchmark::State& state, const Peaks& peaks, Tier from, Tier to) {
  constexpr uint32_t kPages = 16;
  const KvLayout layout{.num_layers = 30, .num_kv_heads = 3, .head_dim = 64, .page_tokens = 64};
  const auto device = BenchDevice(1);
  const auto stream = device->NewStream();
  std::vector<LayerFormat> formats(size_t{30} * kNumTiers);
  for (uint32_t layer = 0; layer < 30; ++layer) {
    for (const auto& [tier, codec] :
         {std::pair(Tier::kHot, Codec::kNative), std::pair(Tier::kWarm, Codec::kInt8),
          std::pair(Tier::kCold, Codec::kTurbo3), std::pair(Tier::kArchive, Codec::kMerged2)}) {
      const uint32_t bytes = BlockLayoutOf(codec, layout).bytes;
      formats[layer * kNumTiers + static_cast<uint32_t>(tier)] = {
          .codec = codec, .layer_offset = layer * 3 * bytes, .head_stride = bytes};
    }
  }
  const uint32_t page_bytes = 30 * 3 * NativeHeadBytes(layout);
  const uint32_t page_units = page_bytes / kArenaUnitBytes;
  Buffer arena = device->Allocate(size_t{2} * kPages * page_bytes, Placement::kDevice).value();
  const std::vector<float> means = RandomFloats(size_t{30} * 3 * 64, 5);
  // Queries with no direction that they prefer: keys are rounded for them all the same.
  std::vector<float> factors(size_t{90} * 64 * 64, 0.0F);
  for (size_t row = 0; row < size_t{90} * 64; ++row) {
    factors[row * 64 + row % 64] = 1.0F;
  }
  const KvCacheView kv{.arena = arena.data(),
                       .formats = formats.data(),
                       .layout = layout,
                       .mean_keys = means.data(),
                       .query_factors = factors.data()};
  const auto place = [&](Tier tier, uint32_t index) { return PageEntry(tier, index * page_units); };
  const std::vector<float> values = RandomFloats(2 * 64 * 64, 4);
  std::vector<PageMove> moves;
  for (uint32_t page = 0; page < kPages; ++page) {
    for (int block = 0; block < 90; ++block) {
      const auto codec = formats[static_cast<size_t>(from)].codec;
      const Status status =
          EncodeBlock(codec, layout, ReferenceQuantizer(), values.data(), values.data() + 64 * 64,
                      kv.block_at(place(from, page), block / 3, block % 3));
      CHECK(status.ok());
    }
    moves.push_back({.from = place(from, page), .to = place(to, kPages + page)});
  }
  MoveResult result;
  size_t page = 0;
  for (auto _ : state) {
    device->ops().TranscodePages(std::span(&moves[page++ % kPages], 1), kv, std::span(&result, 1),
                                 *stream);
    benchmark::DoNotOptimize(result);
  }
  using benchmark::Counter;
  const uint32_t source_bytes = 90 * formats[static_cast<size_t>(from)].head_stride;
  state.counters["source_bytes/s"] =
      Counter(static_cast<double>(source_bytes) * static_cast<double>(state.iterations()),
              Counter::kIsRate);
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
  struct Tiered {
    const char* name;
    Codec codec;
    bool has_key_bias = false;
  };
  for (const Tiered tier :
       {Tiered{"hot", Codec::kNative}, Tiered{"warm", Codec::kInt8}, Tiered{"cold", Codec::kTurbo3},
        Tiered{"cold4", Codec::kTurboK4V3}, Tiered{"archive", Codec::kMerged2},
        Tiered{"warm+bias", Codec::kInt8, true}, Tiered{"cold+bias", Codec::kTurbo3, true}}) {
    const std::string name = fmt::format("Attention/{}/context/tokens", tier.name);
    auto* bench = benchmark::RegisterBenchmark(name.c_str(), [=, &peaks](benchmark::State& state) {
      Attention(state, peaks, tier.codec, tier.has_key_bias);
    });
    bench->Args({512, 1})->Args({4096, 1})->Args({8192, 1});
    if (!IsMerged(tier.codec)) {  // which lie before every query
      bench->Args({512, 512})->Args({4096, 512});
    }
  }
  struct Edge {
    const char* name;
    Tier from, to;
  };
  for (const Edge edge :
       {Edge{"hot-warm", Tier::kHot, Tier::kWarm}, Edge{"hot-cold", Tier::kHot, Tier::kCold},
        Edge{"warm-cold", Tier::kWarm, Tier::kCold}, Edge{"cold-cold", Tier::kCold, Tier::kCold},
        Edge{"cold-archive", Tier::kCold, Tier::kArchive}, Edge{"hot-hot", Tier::kHot, Tier::kHot},
        Edge{"cold-hot", Tier::kCold, Tier::kHot}}) {
    const std::string name = fmt::format("Transcode/{}", edge.name);
    auto* bench = benchmark::RegisterBenchmark(name.c_str(), [=, &peaks](benchmark::State& state) {
      Transcode(state, peaks, edge.from, edge.to);
    });
    bench->Unit(benchmark::kMillisecond);
  }
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
