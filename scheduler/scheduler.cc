#include "scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"

// Scheduler: its queue, and what is between steps: moves and transfers.

namespace thermocline {
namespace {

TierConfig WithArchive(TierConfig config, bool has_store) {
  config.archives = has_store && config.policy == KvPolicy::kAdaptive;
  return config;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, PagePool& pool, PageFinder* store)
    : config_(config),
      pool_(pool),
      prefix_cache_(pool, config.prefix_hash_key),
      tables_(pool, prefix_cache_, config.enable_prefix_caching),
      tiers_(WithArchive(config.tiers, store != nullptr), pool),
      traffic_(pool, prefix_cache_, tiers_, store),
      admission_(config_, pool, tiers_, running_) {
  CHECK(config.max_num_seqs > 0 && config.max_num_batched_tokens > 0 && config.max_model_len > 0);
  CHECK(config.max_num_prefill_tokens_while_decoding >= 0);
  CHECK(pool.NumPagesFor(static_cast<size_t>(config.max_model_len)) <= pool.num_pages());
}

MovePlan Scheduler::ProposeMoves() {
  std::vector<SequencePages> sequences;
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    const Sequence& sequence = entry->sequence;
    const int settled = std::max(0, sequence.num_computed - config_.tiers.window_tokens);
    sequences.push_back({.pages = sequence.pages.ids(),
                         .num_settled = static_cast<size_t>(settled / pool_.layout().page_tokens),
                         .fidelity = entry->fidelity(),
                         .in_prompt = !entry->computes() || sequence.num_wanted() > 1});
  }
  const QueueEntry* next = waiting_.empty() ? nullptr : waiting_.front().get();
  ProposedMoves proposed = tiers_.Propose(sequences, num_steps_, admission_.HotPagesWanted(next));
  traffic_.KeepBacked(proposed.moves);
  return tiers_.Start(std::move(proposed));
}

void Scheduler::EndMoves(std::span<const FinishedMove> finished) {
  if (tiers_.archives()) {
    for (const FinishedMove& end : finished) {
      if (end.move.to.tier() == Tier::kCold) {
        traffic_.SaveLater(end.move.page);  // so that it may be archived
      }
    }
  }
  for (const PageId page : tiers_.End(finished, num_steps_)) {
    pool_.Forget(page);
    const auto reads_page = [&](const std::unique_ptr<QueueEntry>& entry) {
      const std::span<const PageId> pages = entry->sequence.pages.ids();
      return std::find(pages.begin(), pages.end(), page) != pages.end();
    };
    for (auto it = running_.end(); it != running_.begin();) {
      if (reads_page(*--it)) {
        Preempt(it);
        it = running_.end();
      }
    }
  }
}

std::array<int, kNumTiers> Scheduler::TierTokens(const Sequence& sequence) const {
  std::array<int, kNumTiers> tokens{};
  const int page_tokens = pool_.layout().page_tokens;
  for (size_t i = 0; i < sequence.pages.size(); ++i) {
    const int left = sequence.num_computed - static_cast<int>(i) * page_tokens;
    tokens[static_cast<size_t>(pool_.tier(sequence.pages[i]))] += std::clamp(left, 0, page_tokens);
  }
  return tokens;
}

std::vector<const Sequence*> Scheduler::RunningSequences() const {
  std::vector<const Sequence*> sequences;
  sequences.reserve(running_.size());
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    sequences.push_back(&entry->sequence);
  }
  return sequences;
}

uint64_t Scheduler::HeldBytes(const Sequence& sequence) const {
  uint64_t bytes = 0;
  for (const PageId page : sequence.pages.ids()) {
    bytes += pool_.PageBytes(pool_.tier(page));
  }
  return bytes;
}

Status Scheduler::Add(const std::shared_ptr<const Request>& request) {
  const auto num_prompt = static_cast<int>(request->prompt.size());
  CHECK(num_prompt > 0 && request->num_choices > 0);
  const bool generates = !request->prefetch_only && request->stop.max_tokens > 0;
  const int max_prompt = config_.max_model_len - (generates ? 1 : 0);
  if (num_prompt > max_prompt) {
    return InvalidArgument("the prompt has {} tokens, but at most {} fit", num_prompt, max_prompt);
  }
  const auto num_queued =
      std::count_if(waiting_.begin(), waiting_.end(), [](const std::unique_ptr<QueueEntry>& entry) {
        return entry->sequence.choice == 0 && !entry->was_admitted;
      });
  if (num_queued >= config_.max_num_queued_reqs) {
    return ResourceExhausted("{} requests are waiting already", num_queued);
  }
  for (int choice = 0; choice < request->num_choices; ++choice) {
    auto entry = std::make_unique<QueueEntry>();
    entry->sequence.request = request;
    entry->sequence.choice = choice;
    entry->sequence.arrival = num_arrived_++;
    entry->sequence.tokens = request->prompt;
    waiting_.push_back(std::move(entry));
  }
  return {};
}

void Scheduler::Finish(RequestId id, int choice) { Remove(id, choice); }

void Scheduler::Cancel(RequestId id) { Remove(id, std::nullopt); }

void Scheduler::Remove(RequestId id, std::optional<int> choice) {
  const auto matches = [&](const std::unique_ptr<QueueEntry>& entry) {
    const Sequence& sequence = entry->sequence;
    return sequence.request->id == id && (!choice.has_value() || sequence.choice == *choice);
  };
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    if (matches(entry)) {
      ReleasePages(*entry);
    }
  }
  projection_failed_ = std::erase_if(running_, matches) == 0 && projection_failed_;
  std::erase_if(waiting_, matches);
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.num_woken = traffic_.num_woken();
  stats.num_unwoken = traffic_.num_unwoken();
  stats.num_running = static_cast<int>(running_.size());
  stats.num_waiting = static_cast<int>(waiting_.size());
  return stats;
}

bool Scheduler::WaitsForLoad(const Sequence& sequence) const {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  return std::any_of(
      running_.begin(), running_.end(), [&](const std::unique_ptr<QueueEntry>& entry) {
        const Sequence& other = entry->sequence;
        const size_t num_shared = static_cast<size_t>(other.num_computed) + page_tokens;
        return entry->num_loading > 0 && other.request->tenant == sequence.request->tenant &&
               sequence.tokens.size() > num_shared &&
               std::equal(other.tokens.begin(),
                          other.tokens.begin() + static_cast<std::ptrdiff_t>(num_shared),
                          sequence.tokens.begin());
      });
}

void Scheduler::EndTransfers(std::span<const FinishedTransfer> finished) {
  for (const FinishedTransfer& end : finished) {
    const auto waits_for_it = [&](const std::unique_ptr<QueueEntry>& entry) {
      return end.transfer.kind == PageTransfer::Kind::kLoad && entry->num_loading > 0 &&
             NextLoading(*entry) == end.transfer.page;
    };
    const auto reader = std::find_if(running_.begin(), running_.end(), waits_for_it);
    // Ended first: a page that was released meanwhile is free now.
    const bool ok = traffic_.End(end, num_steps_);
    if (reader != running_.end()) {
      EndLoad(**reader, ok);
    }
  }
}

// Loads of one sequence end in the order of its pages.
PageId Scheduler::NextLoading(const QueueEntry& entry) const {
  return entry.sequence
      .pages[static_cast<size_t>(entry.sequence.num_computed / pool_.layout().page_tokens)];
}

void Scheduler::EndLoad(QueueEntry& entry, bool ok) {
  Sequence& sequence = entry.sequence;
  const int page_tokens = pool_.layout().page_tokens;
  const auto index = static_cast<size_t>(sequence.num_computed / page_tokens);
  if (!ok) {
    tables_.Truncate(entry, index);  // without this page those behind it mean nothing
    return;
  }
  --entry.num_loading;
  sequence.num_computed += page_tokens;
  ++entry.num_reused;
  if (sequence.num_preemptions == 0) {
    sequence.num_cached += page_tokens;
    sequence.num_restored += page_tokens;
    stats_.prefix_hit_tokens += static_cast<uint64_t>(page_tokens);
  }
  stats_.restored_tokens += static_cast<uint64_t>(page_tokens);
  tables_.NoteComputed(entry, num_steps_);
  pool_.heat(sequence.pages[index]).move_step = num_steps_;  // to be seen before it cools further
}

std::vector<const Sequence*> Scheduler::PrefetchedSequences() const {
  std::vector<const Sequence*> sequences;
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    const bool waits = entry->num_loading > 0 || entry->waits_to_wake;
    if (entry->sequence.request->prefetch_only && !waits) {
      sequences.push_back(&entry->sequence);
    }
  }
  return sequences;
}

void Scheduler::EndWaits() {
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    if (entry->waits_to_wake) {
      const std::span<const PageId> pages = entry->sequence.pages.ids();
      entry->waits_to_wake = std::any_of(pages.begin(), pages.end(),
                                         [&](PageId page) { return pool_.is_waking(page); });
    }
  }
}

void Scheduler::ReleasePages(QueueEntry& entry) {
  for (const PageId page : tables_.Release(entry)) {
    traffic_.SaveLater(page);
  }
}

}  // namespace thermocline
