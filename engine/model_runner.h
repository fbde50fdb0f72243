#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/baselines/evictor.h"
#include "engine/batch.h"
#include "engine/kv/kv_cache.h"
#include "engine/kv/migrator.h"
#include "engine/model/transformer.h"
#include "engine/runner.h"
#include "engine/sampling/sampler.h"
#include "kernels/device.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Runs steps on one device: batch, forward pass, logits in blocks of bounded size, sampling.
class ModelRunner : public Runner {
 public:
  // `device` and `pool` outlive it. `sampler` sees as many leading logits as its vocabulary has.
  // `probe_layers`: ascending, whose attention page heats are of; empty: all. `evictor`: of a
  // baseline's policy, else null.
  ModelRunner(Transformer model, KvCache cache, Sampler sampler, const PagePool& pool,
              Device& device, std::vector<int> probe_layers,
              std::unique_ptr<Evictor> evictor = nullptr);

  // Called with each row of logits before it is read, on the thread of Run; empty: nobody looks.
  void set_logits_observer(std::function<void(const LogitRow&, std::span<const float>)> observer) {
    logits_observer_ = std::move(observer);
  }

  // Between steps, while nothing moves and no page is in a tier whose formats change.
  void SetFormats(KvFormats formats, std::vector<int> probe_layers);
  // For whoever runs it between steps, on the thread of Run.
  Transformer& model() { return model_; }

  // Where pages are, for those who copy them to and from a store.
  std::byte* arena() const { return cache_.view(pool_.page_map()).arena; }

  Result<RunResult> Run(const StepPlan& plan) override;
  void StartMoves(std::span<const PageMove> moves) override;
  std::vector<FinishedMove> FinishedMoves(bool wait) override;
  double move_seconds() const override;

 private:
  void SetProbeLayers(std::vector<int> layers);
  // StepResult::heat from what the last forward pass left in page_energy_.
  std::vector<std::vector<PageHeat>> FoldHeat() const;
  void ReadRow(const LogitRow& row, std::span<const float> logits, const StepPlan& plan,
               RunResult& result);

  Transformer model_;
  KvCache cache_;
  Sampler sampler_;
  const PagePool& pool_;
  std::vector<int> probe_layers_;
  std::unique_ptr<Evictor> evictor_;
  std::unique_ptr<Stream> stream_;
  Batch batch_;
  std::function<void(const LogitRow&, std::span<const float>)> logits_observer_;
  std::vector<int32_t> rows_;           // of one block of logits
  std::vector<float> page_energy_;      // [probe_layers, pages of the batch, num_kv_heads]
  std::unique_ptr<Migrator> migrator_;  // last: its thread reads the cache
};

}  // namespace thermocline
