#include "scheduler/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

constexpr uint64_t kHeatSamplePeriod = 8;  // steps

TierConfig WithArchive(TierConfig config, bool has_store) {
  config.archives = has_store && config.policy == KvPolicy::kAdaptive;
  return config;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, PagePool& pool, PageFinder* index)
    : config_(config),
      pool_(pool),
      prefix_cache_(pool, config.prefix_hash_key),
      tiers_(WithArchive(config.tiers, index != nullptr), pool),
      index_(index),
      awaits_save_(pool.page_map().size(), false) {
  CHECK(config.max_num_seqs > 0 && config.max_num_batched_tokens > 0 && config.max_model_len > 0);
  CHECK(config.max_num_prefill_tokens_while_decoding >= 0);
  CHECK(NumPagesFor(static_cast<size_t>(config.max_model_len)) <= pool.num_pages());
}

size_t Scheduler::NumPagesFor(size_t num_tokens) const {
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  return (num_tokens + page_tokens - 1) / page_tokens;
}

MovePlan Scheduler::ProposeMoves() {
  std::vector<SequencePages> sequences;
  for (const std::unique_ptr<Entry>& entry : running_) {
    const Sequence& sequence = entry->sequence;
    const int settled = std::max(0, sequence.num_computed - config_.tiers.window_tokens);
    sequences.push_back({.pages = sequence.pages.ids(),
                         .num_settled = static_cast<size_t>(settled / pool_.layout().page_tokens),
                         .fidelity = FidelityOf(*entry),
                         .in_prompt = !Computes(*entry) || sequence.num_wanted() > 1});
  }
  MovePlan plan = tiers_.Propose(sequences, num_steps_, HotPagesWanted());
  KeepBacked(plan);
  return plan;
}

void Scheduler::EndMoves(std::span<const FinishedMove> finished) {
  if (tiers_.archives()) {
    for (const FinishedMove& end : finished) {
      if (end.move.to.tier() == Tier::kCold) {
        SaveLater(end.move.page);  // so that it may be archived
      }
    }
  }
  for (const PageId page : tiers_.End(finished, num_steps_)) {
    pool_.Forget(page);
    const auto reads_page = [&](const std::unique_ptr<Entry>& entry) {
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
  for (const std::unique_ptr<Entry>& entry : running_) {
    sequences.push_back(&entry->sequence);
  }
  return sequences;
}

uint64_t Scheduler::HeldBytes(const Sequence& sequence) const {
  uint64_t num_units = 0;
  for (const PageId page : sequence.pages.ids()) {
    num_units += pool_.arena().units_per_page(pool_.tier(page));
  }
  return num_units * kArenaUnitBytes;
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
      std::count_if(waiting_.begin(), waiting_.end(), [](const std::unique_ptr<Entry>& entry) {
        return entry->sequence.choice == 0 && !entry->was_admitted;
      });
  if (num_queued >= config_.max_num_queued_reqs) {
    return ResourceExhausted("{} requests are waiting already", num_queued);
  }
  for (int choice = 0; choice < request->num_choices; ++choice) {
    auto entry = std::make_unique<Entry>();
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
  const auto matches = [&](const std::unique_ptr<Entry>& entry) {
    const Sequence& sequence = entry->sequence;
    return sequence.request->id == id && (!choice.has_value() || sequence.choice == *choice);
  };
  for (const std::unique_ptr<Entry>& entry : running_) {
    if (matches(entry)) {
      ReleasePages(*entry);
    }
  }
  projection_failed_ = std::erase_if(running_, matches) == 0 && projection_failed_;
  std::erase_if(waiting_, matches);
}

StepPlan Scheduler::Schedule() {
  StepPlan plan{.step = num_steps_++};
  EndWaits();
  int budget = config_.max_num_batched_tokens;
  ScheduleRunning(/*decoding=*/true, Sharing::kInTurn, budget, plan);
  const bool decodes = !plan.sequences.empty();
  budget = PromptBudget(budget, decodes);
  const Sharing sharing = IsCapped(decodes) ? Sharing::kInTurn : Sharing::kHalves;
  ScheduleRunning(/*decoding=*/false, sharing, budget, plan);
  Admit(sharing, budget, plan);
  // The end of a prompt has the first queries that have seen all of its pages.
  plan.sample_heat =
      tiers_.demotes() &&
      (plan.step % kHeatSamplePeriod == 0 ||
       std::any_of(plan.sequences.begin(), plan.sequences.end(),
                   [](const ScheduledSequence& s) { return s.samples() && s.num_tokens > 1; }));
  return plan;
}

bool Scheduler::IsCapped(bool decodes) const {
  return decodes && config_.max_num_prefill_tokens_while_decoding > 0;
}

// What prompts may take of what decoding sequences leave of a step.
int Scheduler::PromptBudget(int num_left, bool decodes) const {
  return IsCapped(decodes) ? std::min(num_left, config_.max_num_prefill_tokens_while_decoding)
                           : num_left;
}

// Decoding: the sequences that want one token. Otherwise the prompts.
void Scheduler::ScheduleRunning(bool decoding, Sharing sharing, int& budget, StepPlan& plan) {
  // Ids first: preemption takes entries out of running_, always from its end.
  std::vector<Entry*> entries;
  for (const std::unique_ptr<Entry>& entry : running_) {
    if (Computes(*entry) && (entry->sequence.num_wanted() == 1) == decoding) {
      entries.push_back(entry.get());
    }
  }
  for (size_t i = 0; i < entries.size() && budget > 0; ++i) {
    const auto still_runs =
        std::any_of(running_.begin(), running_.end(),
                    [&](const std::unique_ptr<Entry>& entry) { return entry.get() == entries[i]; });
    if (!still_runs) {
      break;  // those after it are newer and have been preempted too
    }
    const bool last = i + 1 == entries.size();
    const int share = last || sharing == Sharing::kInTurn ? budget : (budget + 1) / 2;
    ScheduleTokens(*entries[i], std::min(entries[i]->sequence.num_wanted(), share), budget, plan);
  }
}

bool Scheduler::ScheduleTokens(Entry& entry, int num_tokens, int& budget, StepPlan& plan) {
  if (tiers_.demotes() && entry.sequence.num_wanted() > 1) {
    // A prompt takes what demotion has made room for; it preempts nobody unless it is the oldest.
    num_tokens = std::min(num_tokens, TakeFreePages(entry, num_tokens));
    if (num_tokens == 0) {
      if (running_.front().get() != &entry) {
        return true;
      }
      num_tokens = 1;
    }
  }
  const size_t num_pages =
      NumPagesFor(static_cast<size_t>(entry.sequence.num_computed + num_tokens));
  if (!GrowPages(entry, num_pages, budget, plan)) {
    return false;
  }
  budget -= num_tokens;
  plan.sequences.push_back({&entry.sequence, num_tokens});
  NoteRead(entry, num_tokens);
  return true;
}

// What a step computes has the greatest loss of what it reads then, whatever becomes of those pages
// later: they may cool, and archived ones wake, before the page that is being written is full.
void Scheduler::NoteRead(Entry& entry, int num_tokens) {
  Sequence& sequence = entry.sequence;
  if (entry.loss_seen != pool_.num_loss_changes()) {
    entry.loss_seen = pool_.num_loss_changes();
    for (size_t i = 0; i < sequence.pages.size(); ++i) {
      const Tier loss = pool_.loss(sequence.pages[i]);
      entry.loss = std::max(entry.loss, loss);
      sequence.reused_lossy |= i < entry.num_reused && loss > Tier::kHot;
    }
  }
  if (entry.loss > Tier::kHot) {
    const size_t end = NumPagesFor(static_cast<size_t>(sequence.num_computed + num_tokens));
    for (auto i = static_cast<size_t>(sequence.num_computed / pool_.layout().page_tokens); i < end;
         ++i) {
      pool_.NoteComputed(sequence.pages[i], entry.loss);
    }
  }
}

// Takes free pages for up to `num_tokens` more; how many of these have pages then.
int Scheduler::TakeFreePages(Entry& entry, int num_tokens) {
  Sequence& sequence = entry.sequence;
  const size_t num_pages = NumPagesFor(static_cast<size_t>(sequence.num_computed + num_tokens));
  while (sequence.pages.size() < num_pages) {
    const std::optional<PageId> page = pool_.Allocate(entry.accepted);
    if (!page.has_value()) {
      break;
    }
    sequence.pages.Append(*page);
  }
  const auto capacity = static_cast<int>(sequence.pages.size()) * pool_.layout().page_tokens;
  return std::clamp(capacity - sequence.num_computed, 0, num_tokens);
}

bool Scheduler::GrowPages(Entry& entry, size_t num_pages, int& budget, StepPlan& plan) {
  while (entry.sequence.pages.size() < num_pages) {
    if (const std::optional<PageId> page = pool_.Allocate(entry.accepted)) {
      entry.sequence.pages.Append(*page);
      continue;
    }
    const bool is_newest = running_.back().get() == &entry;
    if (running_.size() == 1) {
      // Alone it has every page there is, and all hot these hold max_model_len. Some of them cold
      // may leave superblocks half empty.
      if (const std::optional<PageId> last = pool_.AllocateFromReserve(entry.accepted)) {
        entry.sequence.pages.Append(*last);
        continue;
      }
      if (pool_.num_moving() + pool_.num_transferring() > 0) {
        return false;  // moves in flight hold two places each; saved pages may be without owner
      }
      CHECK(!entry.stays_hot);
      entry.stays_hot = true;
    }
    PreemptNewest(budget, plan);
    if (is_newest) {
      return false;
    }
  }
  return true;
}

void Scheduler::PreemptNewest(int& budget, StepPlan& plan) {
  std::erase_if(plan.sequences, [&](const ScheduledSequence& scheduled) {
    const bool is_it = scheduled.sequence == &running_.back()->sequence;
    budget += is_it ? scheduled.num_tokens : 0;
    return is_it;
  });
  Preempt(std::prev(running_.end()));
  projection_failed_ = true;
}

void Scheduler::Preempt(Entries::iterator it) {
  std::unique_ptr<Entry> entry = std::move(*it);
  running_.erase(it);
  ReleasePages(*entry);
  entry->sequence.num_computed = 0;
  ++entry->sequence.num_preemptions;
  ++stats_.num_preemptions;
  waiting_.push_front(std::move(entry));
}

void Scheduler::Update(const StepPlan& plan, const StepResult& result) {
  CHECK(result.accepted.size() == plan.sequences.size());
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    Sequence& sequence = *plan.sequences[i].sequence;
    const auto entry = std::find_if(
        running_.begin(), running_.end(),
        [&](const std::unique_ptr<Entry>& other) { return &other->sequence == &sequence; });
    CHECK(entry != running_.end());
    sequence.num_computed += plan.sequences[i].num_tokens;
    CHECK(sequence.num_computed <= static_cast<int>(sequence.tokens.size()));
    MarkFullPages(**entry);
    HashFullPages(**entry);
    if (!result.heat.empty()) {
      tiers_.Observe(sequence.pages.ids(), result.heat[i], plan.step);
      WakeJumped(sequence, result.heat[i]);
    }
    sequence.tokens.insert(sequence.tokens.end(), result.accepted[i].begin(),
                           result.accepted[i].end());
  }
}

void Scheduler::MarkFullPages(Entry& entry) {
  const Sequence& sequence = entry.sequence;
  const auto num_full = static_cast<size_t>(sequence.num_computed / pool_.layout().page_tokens);
  for (size_t& i = entry.num_full; i < num_full; ++i) {
    pool_.heat(sequence.pages[i]).peak_step = num_steps_;  // a new page is not an old cold one
    pool_.MarkFull(sequence.pages[i], static_cast<int32_t>(i) * pool_.layout().page_tokens);
  }
}

void Scheduler::HashFullPages(Entry& entry) {
  if (!config_.enable_prefix_caching) {
    return;
  }
  const Sequence& sequence = entry.sequence;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t num_full = static_cast<size_t>(sequence.num_computed) / page_tokens;
  for (size_t& i = entry.num_hashed; i < num_full; ++i) {
    const auto tokens = std::span(sequence.tokens).subspan(i * page_tokens, page_tokens);
    const ContentHash previous = entry.chain;
    entry.chain = prefix_cache_.Next(previous, tokens);
    prefix_cache_.Insert(sequence.pages[i], sequence.request->tenant, tokens, previous, i == 0,
                         entry.chain);
  }
}

// The last page first: leaves of the prefix tree are to be older than what they hang from.
void Scheduler::ReleasePages(Entry& entry) {
  const std::span<const PageId> pages = entry.sequence.pages.ids();
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    pool_.Release(*page, entry.accepted);
    SaveLater(*page);
  }
  entry.sequence.pages.Clear();
  entry.num_hashed = entry.num_full = entry.num_loading = entry.num_reused = 0;
  entry.loss = Tier::kHot;
  entry.loss_seen = 0;
  entry.waits_to_wake = false;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.num_running = static_cast<int>(running_.size());
  stats.num_waiting = static_cast<int>(waiting_.size());
  return stats;
}

}  // namespace thermocline
