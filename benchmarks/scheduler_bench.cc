// What the scheduler costs a step: all sequences decode, at several numbers and contexts.

#include <benchmark/benchmark.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"

namespace thermocline {
namespace {

std::shared_ptr<const Request> MakeRequest(RequestId id, int num_prompt) {
  Request request;
  request.id = id;
  for (int i = 0; i < num_prompt; ++i) {
    request.prompt.push_back(static_cast<TokenId>(id) * 31 + i);
  }
  return std::make_shared<const Request>(std::move(request));
}

StepResult Accept(const StepPlan& plan) {
  StepResult result;
  result.accepted.resize(plan.sequences.size());
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (plan.sequences[i].samples()) {
      result.accepted[i] = {1};
    }
  }
  return result;
}

void DecodeStep(benchmark::State& state) {
  const auto num_sequences = static_cast<int>(state.range(0));
  const auto context = static_cast<int>(state.range(1));
  const int room = context + 4096;  // tokens a sequence may grow to before it is replaced
  const int num_pages = num_sequences * (room / 64 + 1);
  const KvLayout layout{.num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .page_tokens = 64};
  const std::array<uint32_t, kNumTiers> page_bytes = {4096, 0, 0, 0, 0};
  PagePool pool(layout, page_bytes, static_cast<uint64_t>(num_pages) * 4096);
  Scheduler scheduler({.max_num_seqs = num_sequences,
                       .max_num_batched_tokens = 8192,
                       .max_model_len = room,
                       .max_num_queued_reqs = 2 * num_sequences,
                       .prefix_hash_key = 1},
                      pool);
  RequestId next = 0;
  const auto fill = [&] {
    for (RequestId id = next; id > 0 && id > next - static_cast<RequestId>(num_sequences); --id) {
      scheduler.Cancel(id);
    }
    for (int i = 0; i < num_sequences; ++i) {
      benchmark::DoNotOptimize(scheduler.Add(MakeRequest(++next, context)));
    }
    // Until every prompt is computed: a step that is all decoding.
    while (true) {
      const StepPlan plan = scheduler.Schedule();
      int num_tokens = 0;
      for (const ScheduledSequence& one : plan.sequences) {
        num_tokens += one.num_tokens;
      }
      const bool decoding =
          static_cast<int>(plan.sequences.size()) == num_sequences && num_tokens == num_sequences;
      scheduler.Update(plan, Accept(plan));
      if (decoding) {
        return;
      }
    }
  };
  fill();
  int grown = 0;
  for (auto _ : state) {
    const StepPlan plan = scheduler.Schedule();
    scheduler.Update(plan, Accept(plan));
    if (++grown == 2048) {
      state.PauseTiming();
      fill();
      grown = 0;
      state.ResumeTiming();
    }
  }
  using benchmark::Counter;
  state.counters["time_per_sequence"] =
      Counter(static_cast<double>(num_sequences) * static_cast<double>(state.iterations()),
              Counter::kIsRate | Counter::kInvert);
}

BENCHMARK(DecodeStep)->Args({1, 1024})->Args({16, 1024})->Args({64, 1024})->Args({64, 7168});

}  // namespace
}  // namespace thermocline

BENCHMARK_MAIN();
