#include <algorithm>
#include <utility>

#include "scheduler/scheduler.h"

// Which of the waiting sequences start: what they share with pages that are there, and whether all
// that runs then has room, as it is or once it is cold.

namespace thermocline {
namespace {

// Pages kept free of new prompts, so that running sequences do not preempt at once: one in a
// hundred.
size_t Watermark(size_t num_pages) { return num_pages / 100; }

constexpr int kProjectedOutput = 512;  // tokens yet to come that admission counts

}  // namespace

// An upper bound of the hot pages that the next step takes: what running sequences need for their
// next tokens, and the first of the waiting. Decoding ones first, as in the step: counted in order
// of age, a long prompt took the tokens of those behind it, which then found no page and preempted.
size_t Scheduler::HotPagesWanted() const {
  size_t num_pages = 0;
  int budget = config_.max_num_batched_tokens;
  const auto add = [&](const Sequence& sequence) {
    const int num_tokens = std::min(sequence.num_wanted(), budget);
    budget -= num_tokens;
    const size_t needed = NumPagesFor(static_cast<size_t>(sequence.num_computed + num_tokens));
    num_pages += needed - std::min(needed, sequence.pages.size());
  };
  for (const bool decoding : {true, false}) {
    for (const std::unique_ptr<Entry>& entry : running_) {
      if (Computes(*entry) && (entry->sequence.num_wanted() == 1) == decoding) {
        add(entry->sequence);
      }
    }
    if (decoding) {
      budget = PromptBudget(budget, /*decodes=*/budget < config_.max_num_batched_tokens);
    }
  }
  if (!waiting_.empty() && running_.size() < static_cast<size_t>(config_.max_num_seqs) &&
      FitsProjected(*waiting_.front())) {
    add(waiting_.front()->sequence);
  }
  return num_pages;
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
    std::unique_ptr<Entry> entry = std::move(waiting_[i]);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    Entry& admitted = *entry;
    const auto place =
        std::upper_bound(running_.begin(), running_.end(), entry,
                         [](const std::unique_ptr<Entry>& a, const std::unique_ptr<Entry>& b) {
                           return a->sequence.arrival < b->sequence.arrival;
                         });
    running_.insert(place, std::move(entry));
    const bool others = std::any_of(
        waiting_.begin() + static_cast<std::ptrdiff_t>(i), waiting_.end(),
        [&](const std::unique_ptr<Entry>& other) { return !WaitsForSibling(other->sequence); });
    if (!Computes(admitted)) {
      continue;
    }
    const int share = others && sharing == Sharing::kHalves ? (budget + 1) / 2 : budget;
    if (!ScheduleTokens(admitted, std::min(admitted.sequence.num_wanted(), share), budget, plan)) {
      return;  // it found no page and waits again
    }
  }
}

bool Scheduler::TryAdmit(Entry& entry) {
  Sequence& sequence = entry.sequence;
  ContentHash chain;
  entry.accepted = AcceptedLoss(FidelityOf(entry));
  const std::vector<PageId> shared = SharedPages(entry, chain);
  if (!HasRoomFor(entry, shared.size())) {
    for (auto page = shared.rbegin(); page != shared.rend(); ++page) {
      pool_.Release(*page, entry.accepted);
    }
    return false;
  }
  for (const PageId page : shared) {
    sequence.pages.Append(page);
  }
  entry.chain = chain;
  entry.num_hashed = entry.num_full = entry.num_reused = shared.size();
  sequence.num_computed = static_cast<int>(shared.size()) * pool_.layout().page_tokens;
  if (!entry.was_admitted) {
    entry.was_admitted = true;
    sequence.num_cached = sequence.num_computed;
    stats_.prefix_query_tokens += sequence.request->prompt.size();
    stats_.prefix_hit_tokens += static_cast<uint64_t>(sequence.num_computed);
  }
  BeginLoads(entry);
  WakePages(entry);
  return true;
}

KvFidelity Scheduler::FidelityOf(const Entry& entry) {
  return entry.stays_hot ? KvFidelity::kExact : entry.sequence.request->kv_fidelity;
}

bool Scheduler::WaitsForSibling(const Sequence& sequence) const {
  if (sequence.choice == 0) {
    return false;
  }
  const auto is_leader = [&](const std::unique_ptr<Entry>& entry) {
    return entry->sequence.choice == 0 && entry->sequence.request == sequence.request;
  };
  if (std::any_of(waiting_.begin(), waiting_.end(), is_leader)) {
    return true;
  }
  const auto leader = std::find_if(running_.begin(), running_.end(), is_leader);
  return leader != running_.end() && (*leader)->sequence.num_computed < sequence.num_prompt();
}

// Referenced pages that hold the start of the sequence already: a sibling's, or the cache's. Never
// all of it: the last token has to be computed for its logits.
std::vector<PageId> Scheduler::SharedPages(const Entry& entry, ContentHash& chain) {
  const Sequence& sequence = entry.sequence;
  const auto page_tokens = static_cast<size_t>(pool_.layout().page_tokens);
  const size_t max_pages = (sequence.tokens.size() - 1) / page_tokens;
  chain = prefix_cache_.Root(sequence.request->tenant);
  if (sequence.request->num_prompt_logprobs >= 0 && sequence.choice == 0) {
    return {};  // every position's logits are asked for
  }
  std::vector<PageId> pages;
  if (config_.enable_prefix_caching) {
    pages = prefix_cache_.Match(sequence.request->tenant, sequence.tokens, max_pages,
                                entry.accepted, chain);
  }
  const auto leader =
      std::find_if(running_.begin(), running_.end(), [&](const std::unique_ptr<Entry>& other) {
        return other->sequence.choice == 0 && other->sequence.request == sequence.request;
      });
  if (sequence.choice > 0 && leader != running_.end()) {
    const size_t num_prompt = static_cast<size_t>(sequence.num_prompt());
    const size_t num_shared = std::min(max_pages, num_prompt / page_tokens);
    for (size_t i = pages.size(); i < num_shared; ++i) {
      const PageId page = (*leader)->sequence.pages[i];
      if (pool_.loss(page) > entry.accepted) {
        break;  // one that has to stay hot reads less than its siblings
      }
      pages.push_back(page);
      pool_.AddRef(page, entry.accepted);
      chain = prefix_cache_.Next(chain,
                                 std::span(sequence.tokens).subspan(i * page_tokens, page_tokens));
    }
  }
  return pages;
}

bool Scheduler::HasRoomFor(const Entry& entry, size_t num_shared) const {
  const bool demotes = tiers_.demotes();
  if (demotes && (running_.empty() || !projection_failed_)) {
    return running_.empty() || (NumPagesToBeHad() > 0 && FitsProjected(entry));
  }
  const size_t num_new = NumPagesFor(entry.sequence.tokens.size()) - num_shared;
  const size_t watermark = running_.empty() ? 0 : Watermark(pool_.num_pages());
  const size_t num_to_be_had =
      demotes ? NumPagesToBeHad() : pool_.num_free() + pool_.num_evictable();
  return num_new + NumReservedPages() + watermark <= num_to_be_had;
}

// Whether all that runs and `entry` fit as they are, or once they are as cold as they may become.
bool Scheduler::FitsProjected(const Entry& entry) const {
  size_t num_pages = NumPagesFor(entry.sequence.tokens.size()) + Watermark(pool_.num_pages());
  // A chunk is hot until it has been computed; all prompts in work share one step's tokens.
  uint64_t bytes =
      ProjectedBytes(entry) + NumPagesFor(static_cast<size_t>(config_.max_num_batched_tokens)) *
                                  pool_.arena().units_per_page(Tier::kHot) * kArenaUnitBytes;
  for (const std::unique_ptr<Entry>& other : running_) {
    num_pages += NumPagesFor(other->sequence.tokens.size());
    bytes += ProjectedBytes(*other);
  }
  return num_pages <= pool_.num_pages() || bytes <= tiers_.BytesToFill();
}

// Shared pages are counted for each who reads them.
uint64_t Scheduler::ProjectedBytes(const Entry& entry) const {
  const Sequence& sequence = entry.sequence;
  const int left = std::max(0, sequence.request->stop.max_tokens - sequence.num_output());
  const size_t num_tokens =
      std::min(sequence.tokens.size() + static_cast<size_t>(std::min(left, kProjectedOutput)),
               static_cast<size_t>(config_.max_model_len));
  return tiers_.ColdBytes(NumPagesFor(num_tokens), sequence.num_wanted() > 1, FidelityOf(entry));
}

// Hot pages, with the eviction of cold ones that nobody reads.
size_t Scheduler::NumPagesToBeHad() const {
  const uint64_t hot_bytes = pool_.arena().units_per_page(Tier::kHot) * kArenaUnitBytes;
  return pool_.num_free() + pool_.cold_evictable_bytes() / hot_bytes;
}

// What admitted sequences will still take for tokens that they have.
size_t Scheduler::NumReservedPages() const {
  size_t num_pages = 0;
  for (const std::unique_ptr<Entry>& entry : running_) {
    num_pages += NumPagesFor(entry->sequence.tokens.size()) - entry->sequence.pages.size();
  }
  return num_pages;
}

}  // namespace thermocline
