#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/batch.h"
#include "engine/kv/host_copy.h"
#include "engine/kv/kv_cache.h"
#include "engine/kv/migrator.h"
#include "engine/model/transformer.h"
#include "engine/page_heat.h"
#include "engine/runner.h"
#include "engine/sampling/sampler.h"
#include "kernels/device.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Runs steps on one device: batch, forward pass, logits in blocks of bounded size, and tokens,
// drawn on the device unless the host has to see a row of logits. One Sync a step, unless rows of
// several blocks are for the host.
class ModelRunner : public Runner {
 public:
  // `device` and `pool` outlive it. `sampler` sees as many leading logits as its vocabulary has.
  // `probe_layers`: ascending, whose attention page heats are of; empty: all.
  ModelRunner(Transformer model, KvCache cache, Sampler sampler, const PagePool& pool,
              Device& device, std::vector<int> probe_layers);

  // Called with each row of logits before a token is drawn of it, on the thread of Run, which then
  // draws on the host; empty: nobody looks.
  void set_logits_observer(std::function<void(const LogitRow&, std::span<const float>)> observer) {
    logits_observer_ = std::move(observer);
  }

  // Between steps, while nothing moves and no page is in a tier whose formats change. The device's
  // error, if there is one, is that of the next Run.
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
  // How a row's token is drawn on the device; nothing: the host has to see the row.
  std::optional<RowDraw> PlanDraw(const LogitRow& row, const StepPlan& plan) const;
  Status ReadLogits(const StepPlan& plan, RunResult& result);
  // Enqueues one block's logits and draws; reads it if rows of it are for the host.
  Status ReadBlock(std::span<const LogitRow> block, const StepPlan& plan, RunResult& result);
  void ReadRow(const LogitRow& row, std::span<const float> logits, const StepPlan& plan,
               RunResult& result);
  static void Accept(int32_t sequence, TokenId token, const StepPlan& plan, RunResult& result);

  Transformer model_;
  KvCache cache_;
  Sampler sampler_;
  const PagePool& pool_;
  std::vector<int> probe_layers_;
  Device& device_;
  std::unique_ptr<Stream> stream_;
  Batch batch_;
  std::function<void(const LogitRow&, std::span<const float>)> logits_observer_;
  Status format_status_;  // of the upload in SetFormats
  PageHeatReader heat_;
  HostCopy host_logits_;
  Buffer host_tokens_;                  // [logit rows of the step], of those drawn on the device
  std::vector<int32_t> rows_;           // of one block of logits
  std::vector<RowDraw> draws_;          // of one block
  std::vector<size_t> for_host_;        // rows of one block that the host reads
  std::vector<int32_t> drawn_;          // sequences whose tokens are in host_tokens_, in order
  std::unique_ptr<Migrator> migrator_;  // last: its thread reads the cache
};

}  // namespace thermocline
