#include "engine/model_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/sampling/logprobs.h"
#include "kernels/base/check.h"

namespace thermocline {

ModelRunner::ModelRunner(Transformer model, KvCache cache, Sampler sampler, const PagePool& pool,
                         Device& device, std::vector<int> probe_layers,
                         std::unique_ptr<Evictor> evictor)
    : model_(std::move(model)),
      cache_(std::move(cache)),
      sampler_(std::move(sampler)),
      pool_(pool),
      evictor_(std::move(evictor)),
      stream_(device.NewStream()),
      migrator_(std::make_unique<Migrator>(device, cache_.view(pool.page_map()))) {
  SetProbeLayers(std::move(probe_layers));
  if (evictor_ != nullptr) {
    model_.set_attention_observer(
        [this](int layer, Tensor qkv, const BatchView& batch, const KvCacheView& kv) {
          evictor_->Observe(layer, qkv, batch, kv);
        });
  }
}

void ModelRunner::SetProbeLayers(std::vector<int> layers) {
  probe_layers_ = std::move(layers);
  if (probe_layers_.empty()) {
    probe_layers_.resize(static_cast<size_t>(cache_.layout().num_layers));
    std::iota(probe_layers_.begin(), probe_layers_.end(), 0);
  }
}

void ModelRunner::SetFormats(KvFormats formats, std::vector<int> probe_layers) {
  cache_.SetFormats(std::move(formats));
  SetProbeLayers(std::move(probe_layers));
  migrator_->SetView(cache_.view(pool_.page_map()));
}

void ModelRunner::StartMoves(std::span<const PageMove> moves) { migrator_->Start(moves); }

std::vector<FinishedMove> ModelRunner::FinishedMoves(bool wait) {
  return migrator_->TakeFinished(wait);
}

double ModelRunner::move_seconds() const { return migrator_->busy_seconds(); }

Result<RunResult> ModelRunner::Run(const StepPlan& plan) {
  const size_t num_sequences = plan.sequences.size();
  RunResult result(num_sequences);
  if (num_sequences == 0) {
    return result;
  }

  batch_.Build(plan, cache_.layout().page_tokens);
  const KvLayout& layout = cache_.layout();
  const auto num_pages = static_cast<size_t>(batch_.view().page_starts[num_sequences]);
  Transformer::WatchedLayers watched;
  if (plan.sample_heat) {
    page_energy_.resize(probe_layers_.size() * num_pages *
                        static_cast<size_t>(layout.num_kv_heads));
    watched = {.layers = probe_layers_, .energy = page_energy_};
  }
  KvCacheView kv = cache_.view(pool_.page_map());
  if (evictor_ != nullptr) {
    evictor_->BeginStep(plan);
    kv.keep_masks = evictor_->keep_masks();
  }
  model_.Forward(batch_.tokens(), batch_.view(), kv, *stream_, watched);
  constexpr size_t kBlock = Transformer::kMaxLogitRows;
  std::span<const LogitRow> left = batch_.logit_rows();
  while (!left.empty()) {
    const std::span<const LogitRow> block = left.first(std::min(kBlock, left.size()));
    left = left.subspan(block.size());
    rows_.clear();
    for (const LogitRow& row : block) {
      rows_.push_back(row.row);
    }
    const Tensor logits = model_.ComputeLogits(rows_, *stream_);
    RETURN_IF_ERROR(stream_->Sync());
    const auto width = static_cast<size_t>(logits.dim(1));
    for (size_t i = 0; i < block.size(); ++i) {
      ReadRow(block[i], {logits.f32() + i * width, width}, plan, result);
    }
  }
  RETURN_IF_ERROR(stream_->Sync());
  if (plan.sample_heat) {
    result.step.heat = FoldHeat();
  }
  if (evictor_ != nullptr) {
    evictor_->EndStep(plan);
    for (const ScheduledSequence& scheduled : plan.sequences) {
      result.held_bytes.push_back(evictor_->HeldBytes(scheduled));
    }
  }
  return result;
}

std::vector<std::vector<PageHeat>> ModelRunner::FoldHeat() const {
  const BatchView batch = batch_.view();
  const auto num_heads = static_cast<size_t>(cache_.layout().num_kv_heads);
  const auto num_pages = static_cast<size_t>(batch.page_starts[batch.num_sequences]);
  std::vector<std::vector<PageHeat>> heat(static_cast<size_t>(batch.num_sequences));
  for (int s = 0; s < batch.num_sequences; ++s) {
    for (int page = batch.page_starts[s]; page < batch.page_starts[s + 1]; ++page) {
      PageHeat page_heat;
      for (size_t layer = 0; layer < probe_layers_.size(); ++layer) {
        const float* energies =
            page_energy_.data() + (layer * num_pages + static_cast<size_t>(page)) * num_heads;
        for (size_t h = 0; h < num_heads; ++h) {
          page_heat.peak = std::max(page_heat.peak, energies[h]);
          page_heat.mean += energies[h];
        }
      }
      page_heat.mean /= static_cast<float>(probe_layers_.size() * num_heads);
      heat[static_cast<size_t>(s)].push_back(page_heat);
    }
  }
  return heat;
}

void ModelRunner::ReadRow(const LogitRow& row, std::span<const float> all_logits,
                          const StepPlan& plan, RunResult& result) {
  const auto index = static_cast<size_t>(row.sequence);
  const Sequence& sequence = *plan.sequences[index].sequence;
  const std::span<const float> logits = all_logits.first(sampler_.vocab_size());
  if (logits_observer_) {
    logits_observer_(row, logits);
  }
  Status& error = result.errors[index];
  if (!error.ok()) {
    return;
  }
  const auto add_logprobs = [&](TokenId token, int num_top, std::vector<TokenLogprobs>& list) {
    Result<TokenLogprobs> logprobs = ComputeLogprobs(logits, token, num_top);
    if (logprobs.ok()) {
      list.push_back(*std::move(logprobs));
    } else {
      error = logprobs.status();
    }
  };
  if (row.prompt_token) {
    add_logprobs(*row.prompt_token, sequence.request->num_prompt_logprobs,
                 result.prompt_logprobs[index]);
    return;
  }
  const Result<TokenId> token = sampler_.Sample(logits, sequence);
  if (!token.ok()) {
    error = token.status();
    return;
  }
  if (const int num_logprobs = sequence.request->sampling.num_logprobs; num_logprobs >= 0) {
    add_logprobs(*token, num_logprobs, result.output_logprobs[index]);
  }
  if (error.ok()) {
    result.step.accepted[index].push_back(*token);
  }
}

}  // namespace thermocline
