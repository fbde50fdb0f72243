#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/base/check.h"
#include "scheduler/scheduler.h"

// Scheduler: one step, from running sequences to those that it admits, and what the step did.

namespace thermocline {
namespace {

constexpr uint64_t kHeatSamplePeriod = 8;  // steps

}  // namespace

StepPlan Scheduler::Schedule() {
  StepPlan plan{.step = num_steps_++};
  EndWaits();
  int budget = config_.max_num_batched_tokens;
  ScheduleRunning(/*decoding=*/true, Sharing::kInTurn, budget, plan);
  const bool decodes = !plan.sequences.empty();
  budget = config_.PromptBudget(budget, decodes);
  const Sharing sharing = config_.CapsPrompts(decodes) ? Sharing::kInTurn : Sharing::kHalves;
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

// Decoding: the sequences that want one token. Otherwise the prompts.
void Scheduler::ScheduleRunning(bool decoding, Sharing sharing, int& budget, StepPlan& plan) {
  // Ids first: preemption takes entries out of running_, always from its end.
  std::vector<QueueEntry*> entries;
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    if (entry->computes() && (entry->sequence.num_wanted() == 1) == decoding) {
      entries.push_back(entry.get());
    }
  }
  for (size_t i = 0; i < entries.size() && budget > 0; ++i) {
    const auto still_runs = std::any_of(
        running_.begin(), running_.end(),
        [&](const std::unique_ptr<QueueEntry>& entry) { return entry.get() == entries[i]; });
    if (!still_runs) {
      break;  // those after it are newer and have been preempted too
    }
    const bool last = i + 1 == entries.size();
    const int share = last || sharing == Sharing::kInTurn ? budget : (budget + 1) / 2;
    ScheduleTokens(*entries[i], std::min(entries[i]->sequence.num_wanted(), share), budget, plan);
  }
}

bool Scheduler::ScheduleTokens(QueueEntry& entry, int num_tokens, int& budget, StepPlan& plan) {
  if (tiers_.demotes() && entry.sequence.num_wanted() > 1) {
    // A prompt takes what demotion has made room for; it preempts nobody unless it is the oldest.
    num_tokens = std::min(num_tokens, tables_.Extend(entry, num_tokens));
    if (num_tokens == 0) {
      if (running_.front().get() != &entry) {
        return true;
      }
      num_tokens = 1;
    }
  }
  const size_t num_pages =
      pool_.NumPagesFor(static_cast<size_t>(entry.sequence.num_computed + num_tokens));
  if (!GrowPages(entry, num_pages, budget, plan)) {
    return false;
  }
  budget -= num_tokens;
  plan.sequences.push_back({&entry.sequence, num_tokens});
  tables_.NoteRead(entry, num_tokens);
  return true;
}

bool Scheduler::GrowPages(QueueEntry& entry, size_t num_pages, int& budget, StepPlan& plan) {
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

void Scheduler::Preempt(QueueEntries::iterator it) {
  std::unique_ptr<QueueEntry> entry = std::move(*it);
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
        [&](const std::unique_ptr<QueueEntry>& other) { return &other->sequence == &sequence; });
    CHECK(entry != running_.end());
    sequence.num_computed += plan.sequences[i].num_tokens;
    CHECK(sequence.num_computed <= static_cast<int>(sequence.tokens.size()));
    tables_.NoteComputed(**entry, num_steps_);
    if (!result.heat.empty()) {
      tiers_.Observe(sequence.pages.ids(), result.heat[i], plan.step);
      traffic_.WakeJumped(sequence.pages.ids(), result.heat[i]);
    }
    sequence.tokens.insert(sequence.tokens.end(), result.accepted[i].begin(),
                           result.accepted[i].end());
  }
}

void Scheduler::Admit(Sharing sharing, int& budget, StepPlan& plan) {
  size_t i = 0;
  while (i < waiting_.size() && budget > 0 &&
         running_.size() < static_cast<size_t>(config_.max_num_seqs)) {
    if (WaitsForSibling(waiting_[i]->sequence) || WaitsForLoad(waiting_[i]->sequence)) {
      ++i;
      continue;
    }
    if (!TryAdmit(*waiting_[i])) {
      return;  // those behind it wait their turn, even if they would fit
    }
    std::unique_ptr<QueueEntry> entry = std::move(waiting_[i]);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    QueueEntry& admitted = *entry;
    const auto place = std::upper_bound(
        running_.begin(), running_.end(), entry,
        [](const std::unique_ptr<QueueEntry>& a, const std::unique_ptr<QueueEntry>& b) {
          return a->sequence.arrival < b->sequence.arrival;
        });
    running_.insert(place, std::move(entry));
    const bool others = std::any_of(waiting_.begin() + static_cast<std::ptrdiff_t>(i),
                                    waiting_.end(), [&](const std::unique_ptr<QueueEntry>& other) {
                                      return !WaitsForSibling(other->sequence);
                                    });
    if (!admitted.computes()) {
      continue;
    }
    const int share = others && sharing == Sharing::kHalves ? (budget + 1) / 2 : budget;
    if (!ScheduleTokens(admitted, std::min(admitted.sequence.num_wanted(), share), budget, plan)) {
      return;  // it found no page and waits again
    }
  }
}

bool Scheduler::TryAdmit(QueueEntry& entry) {
  Sequence& sequence = entry.sequence;
  ContentHash chain;
  entry.accepted = AcceptedLoss(entry.fidelity());
  const std::vector<PageId> shared = tables_.Share(entry, RunningLeader(sequence), chain);
  if (!admission_.HasRoomFor(entry, shared.size(), !projection_failed_)) {
    tables_.Return(entry, shared);
    return false;
  }
  tables_.Adopt(entry, shared, chain);
  if (!entry.was_admitted) {
    entry.was_admitted = true;
    sequence.num_cached = sequence.num_computed;
    stats_.prefix_query_tokens += sequence.request->prompt.size();
    stats_.prefix_hit_tokens += static_cast<uint64_t>(sequence.num_computed);
  }
  for (const PageId page : traffic_.BeginLoads(sequence, chain, entry.accepted)) {
    sequence.pages.Append(page);
    ++entry.num_loading;
  }
  // A new turn of a conversation reads exact pages: it computes nothing before they have come.
  entry.waits_to_wake = traffic_.WakeAll(sequence.pages.ids());
  return true;
}

const Sequence* Scheduler::RunningLeader(const Sequence& sequence) const {
  const auto leader =
      std::find_if(running_.begin(), running_.end(), [&](const std::unique_ptr<QueueEntry>& other) {
        return other->sequence.choice == 0 && other->sequence.request == sequence.request;
      });
  return sequence.choice > 0 && leader != running_.end() ? &(*leader)->sequence : nullptr;
}

bool Scheduler::WaitsForSibling(const Sequence& sequence) const {
  if (sequence.choice == 0) {
    return false;
  }
  const bool leader_waits =
      std::any_of(waiting_.begin(), waiting_.end(), [&](const std::unique_ptr<QueueEntry>& entry) {
        return entry->sequence.choice == 0 && entry->sequence.request == sequence.request;
      });
  const Sequence* leader = RunningLeader(sequence);
  return leader_waits || (leader != nullptr && leader->num_computed < sequence.num_prompt());
}

}  // namespace thermocline
