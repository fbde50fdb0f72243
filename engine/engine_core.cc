#include "engine/engine_core.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

// Engine bounds the queue where requests come in; a second bound here could only refuse what was
// accepted.
SchedulerConfig WithoutQueueBound(SchedulerConfig config) {
  config.max_num_queued_reqs = std::numeric_limits<int>::max();
  return config;
}

constexpr double kMaxMoveShare = 0.05;  // moves in the background take so much of the time
// Moves that a step waits for are proposed again until there are no more, or so many times.
constexpr int kMaxMoveRounds = 32;

// A moving average over the last twenty or so. The first value stands as it is.
double Average(double average, double value) {
  return average == 0 ? value : average + 0.05 * (value - average);
}

bool IsFinished(const ChoiceOutput& choice) { return choice.finished(); }

// The prompt and what its client was given: a sequence has a token more where nothing was to be
// generated.
std::vector<TokenId> ConversationOf(const Sequence& sequence, const ChoiceOutput& choice) {
  const auto size = static_cast<std::ptrdiff_t>(sequence.num_prompt() + choice.num_tokens());
  return {sequence.tokens.begin(), sequence.tokens.begin() + size};
}

}  // namespace

EngineCore::EngineCore(const SchedulerConfig& config, PagePool& pool, Runner& runner,
                       const Tokenizer& tokenizer, PageIo* io)
    : pool_(pool),
      runner_(runner),
      tokenizer_(tokenizer),
      io_(io),
      max_model_len_(config.max_model_len),
      scheduler_(WithoutQueueBound(config), pool, io) {}

void EngineCore::Add(const std::shared_ptr<const Request>& request,
                     std::unique_ptr<OutputSink> sink) {
  ActiveRequest active{.request = request, .sink = std::move(sink)};
  for (int choice = 0; choice < request->num_choices; ++choice) {
    active.choices.emplace_back(request, choice, tokenizer_, max_model_len_);
  }
  const auto [it, added] = active_.emplace(request->id, std::move(active));
  CHECK(added);
  stalled_ = false;
  if (Status status = scheduler_.Add(request); !status.ok()) {
    End(it, std::move(status));
  }
}

void EngineCore::Cancel(RequestId id) {
  if (const auto it = active_.find(id); it != active_.end()) {
    End(it, {StatusCode::kCancelled, "the request was cancelled"});
  }
}

void EngineCore::FailAll(const Status& status) {
  while (!active_.empty()) {
    End(active_.begin(), status);
  }
}

void EngineCore::End(ActiveRequests::iterator it, Status status) {
  const Request& request = *it->second.request;
  if (status.ok() && !request.session_id.empty()) {
    sessions_.Note(request.tenant, request.session_id, std::move(it->second.session_tokens));
  }
  scheduler_.Cancel(it->first);
  num_admitted_ += it->second.admitted ? 0 : 1;
  stalled_ = false;
  ended_.push_back({std::move(it->second), std::move(status)});
  active_.erase(it);
}

Status EngineCore::Step() {
  last_step_seconds_ = 0;
  EndTransfers(/*wait=*/false);
  if (!can_run()) {
    StartTransfers();
    EndMoves(/*wait=*/true);
    return {};
  }
  MovePages();
  const StepPlan plan = scheduler_.Schedule();
  StartTransfers();
  const bool any_ended = EndPrefetched();
  if (plan.sequences.empty()) {
    // What moves, or has ended, may make the room that the next sequence waits for.
    stalled_ = pool_.num_moving() == 0 && !any_ended;
    EndMoves(/*wait=*/true);
    return {};
  }
  const auto begin = std::chrono::steady_clock::now();
  for (const ScheduledSequence& scheduled : plan.sequences) {
    NoteAdmitted(active_.at(scheduled.sequence->request->id), *scheduled.sequence);
  }
  Result<RunResult> run = runner_.Run(plan);
  if (!run.ok()) {
    return run.status();
  }
  ++steps_.num_steps;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  step_seconds_ = Average(step_seconds_, elapsed.count());
  steps_.seconds += elapsed.count();
  last_step_seconds_ = elapsed.count();

  std::vector<EndedChoice> ended_choices;
  std::map<RequestId, Status> failed;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const Sequence& sequence = *plan.sequences[i].sequence;
    const RequestId id = sequence.request->id;
    if (!run->errors[i].ok()) {
      failed.emplace(id, run->errors[i]);
    } else if (AddOutput(active_.at(id), sequence, i, *run)) {
      ended_choices.push_back({id, &sequence, i});
    }
  }
  scheduler_.Update(plan, run->step);
  // From here on the plan's sequences may be gone.
  for (auto& [id, status] : failed) {
    End(active_.find(id), status);
  }
  // A request that failed with another choice of it, in this very step, is gone.
  std::erase_if(ended_choices,
                [&](const EndedChoice& ended) { return !active_.contains(ended.id); });
  // All that choices held first: when several end in one step, the first ends the request.
  for (const EndedChoice& ended : ended_choices) {
    ActiveRequest& active = active_.at(ended.id);
    NoteHeld(active, ended, *run);
    if (ended.sequence->choice == 0 && !active.request->session_id.empty()) {
      active.session_tokens = ConversationOf(*ended.sequence, active.choices.front());
    }
  }
  for (const EndedChoice& ended : ended_choices) {
    const auto it = active_.find(ended.id);
    if (it == active_.end()) {
      continue;
    }
    scheduler_.Finish(ended.id, ended.sequence->choice);
    if (std::all_of(it->second.choices.begin(), it->second.choices.end(), IsFinished)) {
      End(it, {});
    }
  }
  return {};
}

void EngineCore::NoteHeld(ActiveRequest& active, const EndedChoice& ended, const RunResult& run) {
  const Sequence& sequence = *ended.sequence;
  const std::array<int, kNumTiers> tokens = scheduler_.TierTokens(sequence);
  for (size_t tier = 0; tier < kNumTiers; ++tier) {
    active.tier_tokens[tier] += tokens[tier];
  }
  active.reused_lossy |= sequence.reused_lossy;
  active.kv_bytes_held +=
      run.held_bytes.empty() ? scheduler_.HeldBytes(sequence) : run.held_bytes[ended.index];
}

void EngineCore::EndMoves(bool wait) {
  const std::vector<FinishedMove> finished = runner_.FinishedMoves(wait);
  if (finished.empty()) {
    return;
  }
  scheduler_.EndMoves(finished);
  const double seconds = runner_.move_seconds();
  seconds_per_move_ = Average(
      seconds_per_move_, (seconds - move_seconds_seen_) / static_cast<double>(finished.size()));
  move_seconds_seen_ = seconds;
  if (seconds_per_move_ > 0) {
    scheduler_.tiers().set_max_background_moves(kMaxMoveShare * step_seconds_ / seconds_per_move_);
  }
}

void EngineCore::StartTransfers() {
  if (io_ != nullptr) {
    io_->Start(scheduler_.TakeTransfers());
  }
}

void EngineCore::EndTransfers(bool wait) {
  if (io_ == nullptr) {
    return;
  }
  const std::vector<FinishedTransfer> finished = io_->TakeFinished(wait);
  if (!finished.empty()) {
    stalled_ = false;
    scheduler_.EndTransfers(finished);
  }
}

bool EngineCore::EndPrefetched() {
  const std::vector<const Sequence*> sequences = scheduler_.PrefetchedSequences();
  for (const Sequence* sequence : sequences) {
    const auto it = active_.find(sequence->request->id);
    NoteAdmitted(it->second, *sequence);
    it->second.session_tokens = sequence->tokens;
    End(it, {});
  }
  return !sequences.empty();
}

std::vector<ContentHash> EngineCore::SavePrefix(const std::string& tenant,
                                                std::span<const TokenId> tokens) {
  CHECK(io_ != nullptr);
  EndMoves(/*wait=*/true);
  SavedPrefix prefix = scheduler_.SavePrefix(tenant, tokens);
  io_->Start(std::move(prefix.transfers));
  return std::move(prefix.pages);
}

void EngineCore::SaveCachedPages() {
  if (io_ == nullptr) {
    return;
  }
  EndMoves(/*wait=*/true);
  scheduler_.SaveCachedPages();
  while (scheduler_.has_transfers()) {
    StartTransfers();
    EndTransfers(/*wait=*/true);
  }
}

void EngineCore::SwitchFormats(const std::array<uint32_t, kNumTiers>& page_bytes,
                               const std::function<void()>& apply) {
  EndMoves(/*wait=*/true);
  StartTransfers();
  while (pool_.num_transferring() > 0) {
    EndTransfers(/*wait=*/true);
  }
  scheduler_.DropCodedPages();
  pool_.SetPageBytes(page_bytes);
  apply();
  stalled_ = false;
}

void EngineCore::MovePages() {
  EndMoves(/*wait=*/false);
  for (int round = 0; round < kMaxMoveRounds; ++round) {
    const MovePlan plan = scheduler_.ProposeMoves();
    runner_.StartMoves(plan.moves);
    if (!plan.wait) {
      return;
    }
    EndMoves(/*wait=*/true);
  }
}

void EngineCore::NoteAdmitted(ActiveRequest& active, const Sequence& sequence) {
  if (active.admitted) {
    return;
  }
  active.admitted = true;
  active.num_cached = sequence.num_cached;
  active.num_restored = sequence.num_restored;
  ++num_admitted_;
  steps_.prompt_tokens += static_cast<uint64_t>(sequence.num_prompt());
}

bool EngineCore::AddOutput(ActiveRequest& active, const Sequence& sequence, size_t index,
                           RunResult& result) {
  if (!result.prompt_logprobs[index].empty()) {
    AddPromptLogprobs(active, sequence, std::move(result.prompt_logprobs[index]));
  }
  const std::vector<TokenId>& accepted = result.step.accepted[index];
  ChoiceOutput& choice = active.choices[static_cast<size_t>(sequence.choice)];
  if (accepted.empty()) {
    return false;
  }
  const bool is_first = sequence.choice == 0 && choice.num_tokens() == 0;
  const int num_before = choice.num_tokens();
  OutputDelta delta = choice.Add(accepted, result.output_logprobs[index]);
  if (is_first) {
    delta.prompt_logprobs = active.prompt_logprobs;
  }
  steps_.generated_tokens += static_cast<uint64_t>(choice.num_tokens() - num_before);
  active.deltas.push_back(std::move(delta));
  return choice.finished();
}

// A preempted prompt is computed again: what is known already is not added twice.
void EngineCore::AddPromptLogprobs(ActiveRequest& active, const Sequence& sequence,
                                   std::vector<TokenLogprobs> logprobs) {
  const auto begin =
      static_cast<size_t>(sequence.num_computed);  // where logprobs begin in prompt_logprobs
  const size_t known = active.prompt_logprobs.size();
  for (size_t i = known > begin ? known - begin : 0; i < logprobs.size(); ++i) {
    active.prompt_logprobs.push_back(std::move(logprobs[i]));
  }
}

void EngineCore::Deliver() {
  const auto deliver_deltas = [](ActiveRequest& active) {
    for (OutputDelta& delta : active.deltas) {
      active.sink->OnDelta(std::move(delta));
    }
    active.deltas.clear();
  };
  for (auto& [id, active] : active_) {
    deliver_deltas(active);
  }
  for (EndedRequest& ended : ended_) {
    deliver_deltas(ended.active);
    Usage usage{.prompt_tokens = static_cast<int>(ended.active.request->prompt.size()),
                .cached_prompt_tokens = ended.active.num_cached,
                .restored_prompt_tokens = ended.active.num_restored,
                .tier_tokens = ended.active.tier_tokens,
                .reused_lossy = ended.active.reused_lossy,
                .kv_bytes_held = ended.active.kv_bytes_held};
    for (const ChoiceOutput& choice : ended.active.choices) {
      usage.completion_tokens += choice.num_tokens();
    }
    ended.active.sink->OnDone(ended.status, usage);
    ++num_done_;
  }
  ended_.clear();
}

ArenaStats EngineCore::TakeArenaStats() const {
  const Arena& arena = pool_.arena();
  ArenaStats stats{.num_pages = pool_.num_pages(),
                   .num_free_pages = arena.num_free_places(Tier::kHot),
                   .num_cached_pages = pool_.num_evictable(),
                   .bytes = uint64_t{arena.num_units()} * kArenaUnitBytes,
                   .free_bytes = arena.bytes_free(),
                   .num_superblocks = arena.num_superblocks(),
                   .num_empty_superblocks = arena.num_empty_superblocks()};
  for (size_t i = 0; i < kNumTiers; ++i) {
    const auto tier = static_cast<Tier>(i);
    stats.tier_pages[i] = arena.num_used(tier);
    stats.tier_bytes[i] = arena.bytes_used(tier);
    stats.tier_page_bytes[i] = uint64_t{arena.units_per_page(tier)} * kArenaUnitBytes;
  }
  return stats;
}

EngineStats EngineCore::stats() const {
  EngineStats stats{.scheduler = scheduler_.stats(),
                    .steps = steps_,
                    .arena = TakeArenaStats(),
                    .tiers = scheduler_.tiers().stats(),
                    .moves = {.num_moving = pool_.num_moving(), .seconds = runner_.move_seconds()}};
  if (io_ != nullptr) {
    stats.store = io_->store().usage();
  }
  return stats;
}

KvSnapshot EngineCore::TakeSnapshot() const {
  KvSnapshot snapshot = TakeKvSnapshot(scheduler_, pool_);
  snapshot.stats = stats();
  return snapshot;
}

}  // namespace thermocline
