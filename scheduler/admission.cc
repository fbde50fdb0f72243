#include "scheduler/admission.h"

#include <algorithm>

namespace thermocline {
namespace {

// Pages kept free of new prompts, so that running sequences do not preempt at once: one in a
// hundred.
size_t Watermark(size_t num_pages) { return num_pages / 100; }

constexpr int kProjectedOutput = 512;  // tokens yet to come that admission counts

}  // namespace

// Decoding sequences are counted first, as the step serves them: counted in order of age, a long
// prompt took the tokens of those behind it, which then found no page and preempted.
size_t Admission::HotPagesWanted(const QueueEntry* next) const {
  size_t num_pages = 0;
  int budget = config_.max_num_batched_tokens;
  const auto add = [&](const Sequence& sequence) {
    const int num_tokens = std::min(sequence.num_wanted(), budget);
    budget -= num_tokens;
    const size_t needed =
        pool_.NumPagesFor(static_cast<size_t>(sequence.num_computed + num_tokens));
    num_pages += needed - std::min(needed, sequence.pages.size());
  };
  for (const bool decoding : {true, false}) {
    for (const std::unique_ptr<QueueEntry>& entry : running_) {
      if (entry->computes() && (entry->sequence.num_wanted() == 1) == decoding) {
        add(entry->sequence);
      }
    }
    if (decoding) {
      const bool decodes = budget < config_.max_num_batched_tokens;
      budget = config_.PromptBudget(budget, decodes);
    }
  }
  if (next != nullptr && running_.size() < static_cast<size_t>(config_.max_num_seqs) &&
      FitsProjected(*next)) {
    add(next->sequence);
  }
  return num_pages;
}

bool Admission::HasRoomFor(const QueueEntry& entry, size_t num_shared, bool projects) const {
  const bool demotes = tiers_.demotes();
  if (demotes && (running_.empty() || projects)) {
    return running_.empty() || (NumAvailablePages() > 0 && FitsProjected(entry));
  }
  const size_t num_new = pool_.NumPagesFor(entry.sequence.tokens.size()) - num_shared;
  const size_t watermark = running_.empty() ? 0 : Watermark(pool_.num_pages());
  const size_t num_available =
      demotes ? NumAvailablePages() : pool_.num_free() + pool_.num_evictable();
  return num_new + NumReservedPages() + watermark <= num_available;
}

bool Admission::FitsProjected(const QueueEntry& entry) const {
  size_t num_pages = pool_.NumPagesFor(entry.sequence.tokens.size()) + Watermark(pool_.num_pages());
  // A chunk is hot until it has been computed; all prompts in work share one step's tokens.
  const size_t num_chunk_pages =
      pool_.NumPagesFor(static_cast<size_t>(config_.max_num_batched_tokens));
  uint64_t bytes = ProjectedBytes(entry) + num_chunk_pages * pool_.PageBytes(Tier::kHot);
  for (const std::unique_ptr<QueueEntry>& other : running_) {
    num_pages += pool_.NumPagesFor(other->sequence.tokens.size());
    bytes += ProjectedBytes(*other);
  }
  return num_pages <= pool_.num_pages() || bytes <= tiers_.BytesToFill();
}

uint64_t Admission::ProjectedBytes(const QueueEntry& entry) const {
  const Sequence& sequence = entry.sequence;
  const int left = std::max(0, sequence.request->stop.max_tokens - sequence.num_output());
  const size_t num_tokens =
      std::min(sequence.tokens.size() + static_cast<size_t>(std::min(left, kProjectedOutput)),
               static_cast<size_t>(config_.max_model_len));
  return tiers_.ColdBytes(pool_.NumPagesFor(num_tokens), sequence.num_wanted() > 1,
                          entry.fidelity());
}

// Hot pages that can be had without moving any: free ones, and the room of cold ones that nobody
// reads.
size_t Admission::NumAvailablePages() const {
  return pool_.num_free() + pool_.cold_evictable_bytes() / pool_.PageBytes(Tier::kHot);
}

// Pages that admitted sequences will still take for tokens that they have.
size_t Admission::NumReservedPages() const {
  size_t num_pages = 0;
  for (const std::unique_ptr<QueueEntry>& entry : running_) {
    num_pages += pool_.NumPagesFor(entry->sequence.tokens.size()) - entry->sequence.pages.size();
  }
  return num_pages;
}

}  // namespace thermocline
