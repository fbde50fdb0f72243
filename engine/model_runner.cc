#include "engine/model_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/sampling/logprobs.h"
#include "kernels/base/check.h"

namespace thermocline {

ModelRunner::ModelRunner(Transformer model, KvCache cache, Sampler sampler, const PagePool& pool,
                         Device& device, std::vector<int> probe_layers)
    : model_(std::move(model)),
      cache_(std::move(cache)),
      sampler_(std::move(sampler)),
      pool_(pool),
      device_(device),
      stream_(device.NewStream()),
      heat_(device),
      host_logits_(device),
      migrator_(std::make_unique<Migrator>(device, cache_.view(pool.page_map()))) {
  SetProbeLayers(std::move(probe_layers));
}

void ModelRunner::SetProbeLayers(std::vector<int> layers) {
  probe_layers_ = std::move(layers);
  if (probe_layers_.empty()) {
    probe_layers_.resize(static_cast<size_t>(cache_.layout().num_layers));
    std::iota(probe_layers_.begin(), probe_layers_.end(), 0);
  }
}

void ModelRunner::SetFormats(KvFormats formats, std::vector<int> probe_layers) {
  cache_.SetFormats(std::move(formats), *stream_);
  format_status_ = stream_->Sync();
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

  RETURN_IF_ERROR(std::exchange(format_status_, {}));
  batch_.Build(plan, cache_.layout().page_tokens);
  const BatchView batch = batch_.view();
  Transformer::WatchedLayers watched;
  if (plan.sample_heat) {
    Result<Transformer::WatchedLayers> begun = heat_.Begin(
        probe_layers_, cache_.layout().num_kv_heads, batch.page_starts[batch.num_sequences]);
    if (!begun.ok()) {
      return begun.status();
    }
    watched = *begun;
  }
  model_.Forward(batch, cache_.view(pool_.page_map()), *stream_, watched);
  if (plan.sample_heat) {
    heat_.Fold(*stream_);
  }
  if (Status status = ReadLogits(plan, result); !status.ok()) {
    (void)stream_->Sync();  // the next step finds nothing under way
    return status;
  }
  if (plan.sample_heat) {
    result.step.heat = heat_.Read(batch);
  }
  return result;
}

Status ModelRunner::ReadLogits(const StepPlan& plan, RunResult& result) {
  constexpr size_t kBlock = Transformer::kMaxLogitRows;
  std::span<const LogitRow> left = batch_.logit_rows();
  drawn_.clear();
  RETURN_IF_ERROR(Reserve(device_, left.size() * sizeof(TokenId), Placement::kHost, host_tokens_));
  while (!left.empty()) {
    const std::span<const LogitRow> block = left.first(std::min(kBlock, left.size()));
    left = left.subspan(block.size());
    RETURN_IF_ERROR(ReadBlock(block, plan, result));
  }
  RETURN_IF_ERROR(stream_->Sync());
  const auto* tokens = static_cast<const TokenId*>(static_cast<const void*>(host_tokens_.data()));
  for (size_t i = 0; i < drawn_.size(); ++i) {
    Accept(drawn_[i], tokens[i], plan, result);
  }
  return {};
}

std::optional<RowDraw> ModelRunner::PlanDraw(const LogitRow& row, const StepPlan& plan) const {
  const Sequence& sequence = *plan.sequences[static_cast<size_t>(row.sequence)].sequence;
  if (row.prompt_token || logits_observer_ || sequence.request->sampling.num_logprobs >= 0) {
    return std::nullopt;
  }
  return sampler_.PlanDraw(sequence);
}

Status ModelRunner::ReadBlock(std::span<const LogitRow> block, const StepPlan& plan,
                              RunResult& result) {
  auto* tokens = static_cast<TokenId*>(static_cast<void*>(host_tokens_.data())) + drawn_.size();
  rows_.clear();
  draws_.clear();
  for_host_.clear();
  for (size_t i = 0; i < block.size(); ++i) {
    rows_.push_back(block[i].row);
    if (std::optional<RowDraw> draw = PlanDraw(block[i], plan)) {
      draw->row = static_cast<int32_t>(i);
      draws_.push_back(*draw);
      drawn_.push_back(block[i].sequence);
    } else {
      for_host_.push_back(i);
    }
  }
  const Tensor logits = model_.ComputeLogits(rows_, *stream_);
  if (!draws_.empty()) {
    device_.ops().DrawTokens(logits, static_cast<int>(sampler_.vocab_size()), draws_, tokens,
                             *stream_);
  }
  if (for_host_.empty()) {
    return {};
  }
  const auto width = static_cast<size_t>(logits.dim(1));
  const size_t first = for_host_.front();
  const Result<const float*> copied = host_logits_.Read(
      logits.f32() + first * width, (for_host_.back() + 1 - first) * width, *stream_);
  if (!copied.ok()) {
    return copied.status();
  }
  RETURN_IF_ERROR(stream_->Sync());
  for (const size_t i : for_host_) {
    ReadRow(block[i], {*copied + (i - first) * width, width}, plan, result);
  }
  return {};
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
    Accept(row.sequence, *token, plan, result);
  }
}

void ModelRunner::Accept(int32_t sequence, TokenId token, const StepPlan& plan, RunResult& result) {
  const auto index = static_cast<size_t>(sequence);
  Status& error = result.errors[index];
  if (!error.ok()) {
    return;
  }
  if (token < 0) {
    error = Sampler::NoToken(*plan.sequences[index].sequence);
  } else {
    result.step.accepted[index].push_back(token);
  }
}

}  // namespace thermocline
